"""`onnx-ptq4vit export`, on a cache of the hub that holds small models under real names."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FIXTURES

from onnx_ptq4vit.export import command

TIMM = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
VIT = "google/vit-base-patch16-224"
CLIP = "openai/clip-vit-base-patch32"
SCRIPTS = FIXTURES.parent / "scripts"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache; the hub itself is not asked."""
    pytest.importorskip("torch", reason="PyTorch is not installed: see scripts/requirements-export.txt")
    folder = tmp_path_factory.mktemp("hub")
    # The client of the hub reads these once, when it is imported.
    os.environ.update(HF_HOME=str(folder), HF_HUB_OFFLINE="1")
    sys.path.insert(0, str(SCRIPTS))
    import hub_cache

    hub_cache.fill(folder, [TIMM, VIT, CLIP])
    yield folder
    sys.path.remove(str(SCRIPTS))


def run(*arguments: object, code: int = 0) -> None:
    assert command.main([str(argument) for argument in arguments]) == code


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


@pytest.fixture(scope="module")
def exports(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of the models."""
    folder = tmp_path_factory.mktemp("exports")
    for name in (TIMM, VIT, CLIP):
        # The default weights of the architecture are those of TIMM.
        run(TIMM.partition(".")[0] if name == TIMM else name, "-o", folder / name / "vit.onnx")
    return folder


@pytest.mark.parametrize(
    ("name", "says", "task"),
    [(TIMM, "config.json", "classify"), (VIT, "preprocessor_config.json", "classify"),
     (CLIP, "preprocessor_config.json", "embed")],
)
def test_what_was_exported_is_quantized_whole(name: str, says: str, task: str, exports: Path, tmp_path: Path) -> None:
    folder = exports / name
    assert names(folder) == sorted({"vit.onnx", "config.json", says})
    calib = ["--calib", FIXTURES / "digits_png", "--calib-limit", "2", "--preset", "fast"]
    arguments = ["quantize", folder / "vit.onnx", *calib, "-o", tmp_path / "vit.int8.onnx"]
    done = subprocess.run([sys.executable, "-m", "onnx_ptq4vit", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"(by {folder / says})" in done.stderr and f"task: {task}" in done.stderr
    assert "100.0 % of the multiplications are integer" in done.stdout


def test_classes_have_names(exports: Path) -> None:
    classes = json.loads((exports / TIMM / "config.json").read_text())["label_names"]
    assert len(classes) == 1000 and classes[0].startswith("tench")
    assert json.loads((exports / VIT / "config.json").read_text())["id2label"]["3"] == "espresso"


def test_the_output_says_what_to_do_next(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    arguments = ["--image-size", "96", "--batch", "3", "--task", "embed"]
    run(TIMM, "-o", tmp_path / "a b" / "vit.onnx", *arguments)
    shown = capsys.readouterr()
    next_command = shlex.split(shown.out.partition("\nnext: ")[2])
    folder = tmp_path / "a b"
    quantized = str(folder / "vit.int8.onnx")
    assert next_command == ["onnx-ptq4vit", "quantize", str(folder / "vit.onnx"), "--calib", "images/", "-o", quantized]
    assert "of the largest output from PyTorch" in shown.out and "warning" not in shown.err
    assert "images [3, 3, 96, 96]" in shown.out and "embeddings" in shown.out
    graph = onnx.load(folder / "vit.onnx").graph
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim] == [3, 3, 96, 96]
    assert not any(node.doc_string or node.metadata_props for node in graph.node), "no paths of this machine"
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 96, 96]


@pytest.mark.parametrize("name", [TIMM, VIT])
def test_a_folder_is_as_good_as_the_hub(name: str, hub: Path, exports: Path, tmp_path: Path) -> None:
    snapshot = next((hub / "hub" / f"models--{name.replace('/', '--')}" / "snapshots").iterdir())
    run(snapshot, "-o", tmp_path / "vit.onnx", "-q")
    assert names(tmp_path) == names(exports / name)
    assert (tmp_path / "vit.onnx").read_bytes() == (exports / name / "vit.onnx").read_bytes()


def test_random_weights_need_no_hub_and_are_said_to_be_random(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("timm/test_vit", "--random-weights", "-o", tmp_path / "vit.onnx", "--batch", "1", "--json", "-q")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["random"] and "warning: the weights are random" in shown.err


def test_large_weights_have_a_file_of_their_own(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from onnx_ptq4vit.export import writing

    monkeypatch.setattr(writing, "LARGEST_FILE", 1000)
    run(VIT, "-o", tmp_path / "vit.onnx", "--batch", "1", "-q")
    assert names(tmp_path) == ["config.json", "preprocessor_config.json", "vit.onnx", "vit.onnx.data"]
    onnx.checker.check_model(tmp_path / "vit.onnx", full_check=True)


def test_a_wrong_export_leaves_no_file(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnx_ptq4vit.export import writing

    monkeypatch.setattr(writing, "ABSURD", -1.0)
    run(VIT, "-o", tmp_path / "vit.onnx", "--batch", "1", "-q", code=4)
    assert "the exporter got it wrong" in capsys.readouterr().err and names(tmp_path) == []


def test_files_of_others_are_kept(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, says in (("vit.onnx", "no ONNX model"), ("config.json", "folder of its own"),
                       ("preprocessor_config.json", "folder of its own")):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_text('{"mine": 1}')
        run("timm/test_vit", "--random-weights", "-o", folder / "vit.onnx", "-q", code=2)
        assert says in capsys.readouterr().err
        assert names(folder) == [file] and (folder / file).read_text() == '{"mine": 1}'


CONFIGS = {
    "a model of texts": ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, 4, "BertForMaskedLM"),
    "a model with its pixels masked": ({"model_type": "vit", "architectures": ["ViTForMaskedImageModeling"]}, 4, "--task embed"),
    "no model": ({"something": "else"}, 3, "no model of timm, transformers or OpenCLIP"),
}
ARGUMENTS = {
    "a model that the cache does not have": (["nobody/nothing"], 3, "the cache does not have it"),
    "a name without an owner": (["vit_tiny_patch16_224"], 2, "did you mean timm/vit_tiny_patch16_224"),
    "a tag that timm does not know": (["timm/vit_tiny_patch16_224.nobody"], 2, "augreg_in21k_ft_in1k"),
    "a task of another model": (["timm/test_vit", "--random-weights", "--task", "dense"], 2, "classify or embed"),
    "no task": (["timm/test_vit", "--task", "fly"], 2, "invalid choice"),
    "no size": (["timm/test_vit", "--image-size", "big"], 2, "384x512"),
    "no batch": (["timm/test_vit", "--batch", "0"], 2, "dynamic"),
}


@pytest.mark.parametrize("kind", [*CONFIGS, *ARGUMENTS])
def test_errors_say_what_to_do(kind: str, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if kind in CONFIGS:
        config, code, says = CONFIGS[kind]
        (tmp_path / "config.json").write_text(json.dumps(config))
        arguments = [str(tmp_path)]
    else:
        arguments, code, says = ARGUMENTS[kind]
    run(*arguments, "-o", tmp_path / "out" / "vit.onnx", "-q", code=code)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said
    assert not (tmp_path / "out").exists()


def test_without_its_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnx_ptq4vit.export.find_spec", lambda package: None if package == "timm" else package)
    run("timm/test_vit", "-o", tmp_path / "vit.onnx", code=2)
    assert capsys.readouterr().err == "error: export needs timm: pip install 'onnx-ptq4vit[export]'\n"


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    shown = capsys.readouterr().out
    for action in command._parser()._actions:
        assert all(option in shown for option in action.option_strings)
    for arguments in (["--help"], ["help"]):
        done = subprocess.run([sys.executable, "-m", "onnx_ptq4vit", *arguments], capture_output=True, text=True)
        assert done.returncode == 0 and "quantize" in done.stdout and "  export " in done.stdout
