//! Every writer of the library follows the same rules on what it replaces, on permissions, and on failure.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::ArrayD;
use onnx_ptq4vit::calibrate::{Calibration, Options, Preset, Provenance};
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::onnx::{Model, Storage};
use onnx_ptq4vit::{ErrorKind, Result, files};

type Writer = fn(&Path) -> Result<()>;

const WRITERS: [(&str, Writer); 6] = [
    ("inline model", |path| model().write(path, Storage::Inline)),
    ("external model", |path| model().write(path, Storage::External)),
    ("calibration", |path| calibration().write(path)),
    ("array", |path| write_npy(path, &ArrayD::zeros(vec![100, 100]))),
    ("bytes", |path| files::write(path, |file| file.write_all(&[7; 10_000]))),
    ("nothing", |path| files::write(path, |_| Ok(()))),
];

fn model() -> Model {
    Model::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits_vit_ts17.onnx")).unwrap()
}

fn calibration() -> Calibration {
    let provenance = Provenance {
        tool: "test".into(),
        model_sha256: "0".repeat(64),
        images: 1,
        images_sha256: "0".repeat(64),
        preprocessing: None,
        options: Options::new(Preset::Paper),
    };
    Calibration { provenance, sites: Vec::new() }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn a_failure_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("kept"), "kept").unwrap();
    let mut refused =
        vec![("folder", 2, "not a regular file"), ("..", 2, "file"), ("absent/x", 3, "absent/x")];
    // The temporary file is complete when the name turns out to be too long.
    let long = "n".repeat(256);
    refused.push((&long, 3, "nnn"));
    #[cfg(unix)]
    let _socket = {
        std::os::unix::fs::symlink("kept", path("link")).unwrap();
        std::os::unix::fs::symlink("absent", path("dangling")).unwrap();
        std::os::unix::fs::symlink("folder", path("link to folder")).unwrap();
        for link in ["link", "dangling", "link to folder"] {
            refused.push((link, 2, "symbolic link"));
        }
        refused.push(("socket", 2, "not a regular file"));
        std::os::unix::net::UnixListener::bind(path("socket")).unwrap()
    };
    let before = names(folder.path());
    for (target, code, part) in refused {
        for (name, write) in WRITERS {
            let why = write(&path(target)).expect_err(name);
            assert!(why.exit_code() == code && why.to_string().contains(part), "{name} to {target}: {why}");
            assert_eq!(names(folder.path()), before, "{name} to {target}");
        }
        if target != long {
            let why = files::ensure_writable(&path(target)).unwrap_err();
            assert!(why.exit_code() == code && why.to_string().contains(part), "{target}: {why}");
        }
    }
    let broken = files::write(&path("kept"), |file| {
        file.write_all(b"a part")?;
        Err(std::io::Error::other("broken"))
    });
    assert!(broken.is_err_and(|error| error.kind() == ErrorKind::Io));
    drop(files::prepare(&path("kept"), |file| file.write_all(b"never published")).unwrap());
    assert_eq!(names(folder.path()), before);
    assert_eq!(fs::read(path("kept")).unwrap(), b"kept");
}

#[test]
fn files_are_made_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for (name, write) in WRITERS {
        for _ in 0..2 {
            files::ensure_writable(&path).unwrap();
            write(&path).unwrap();
        }
        let written = names(folder.path());
        assert_eq!(written.len(), if name == "external model" { 2 } else { 1 }, "{name}: {written:?}");
        for file in written {
            fs::remove_file(file).unwrap();
        }
    }
    files::write(&path, |file| file.write_all(b"whole")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole");
}

#[cfg(unix)]
#[test]
fn files_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("new"), "").unwrap();
    for (name, write) in WRITERS {
        write(&folder.path().join("out")).unwrap();
        for file in names(folder.path()) {
            assert_eq!(mode(&file), mode(&other.path().join("new")), "{name}: {}", file.display());
        }
    }
}
