//! What goes in and what comes out: the same network behind other inputs and before other outputs, against the plain one.

mod common;

use common::{fixture_path, image_value, value};
use ndarray::{Array4, ArrayD, Axis, s};
use ndarray_npy::write_npy;
use onnx_ptq4vit::calibrate::SiteScales;
use onnx_ptq4vit::engine::Reading;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_ptq4vit::onnx::proto::{AttributeProto, TensorShapeProto, TypeProto, type_proto};
use onnx_ptq4vit::onnx::{DataType, GraphProto, Model, NodeProto, TensorProto, ValueInfoProto, tensor};
use onnx_ptq4vit::options::{InputValue, Task};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::{Comparison, Dataset, Engine as _, Quantize, Result, Runner, check};

/// The fixture, which takes `images` `[N, 3, 8, 8]` and gives `logits` `[N, 10]`, changed.
fn changed(change: impl FnOnce(&mut GraphProto)) -> Model {
    let mut model = Model::read(&fixture_path("digits_vit_ts17.onnx")).unwrap();
    change(model.proto.graph.as_mut().unwrap());
    Model::new(model.proto).unwrap()
}

/// The fixture behind nodes that make `images` of the input `x`.
fn behind(input: ValueInfoProto, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Model {
    changed(|graph| {
        graph.input = vec![input];
        graph.node.splice(0..0, nodes);
        graph.initializer.extend(constants);
    })
}

/// The fixture before nodes that make the outputs `names` of `logits`.
fn before(names: &[(&str, DataType, &[i64])], nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Model {
    changed(|graph| {
        graph.output = names.iter().map(|(name, element, dims)| typed(name, *element, dims)).collect();
        graph.node.extend(nodes);
        graph.initializer.extend(constants);
    })
}

/// A value of this type; a negative dim is open.
fn typed(name: &str, element: DataType, dims: &[i64]) -> ValueInfoProto {
    let size = |dim: i64| match dim {
        ..0 => dimension::Value::DimParam("N".into()),
        _ => dimension::Value::DimValue(dim),
    };
    let dim = dims.iter().map(|&dim| Dimension { value: Some(size(dim)), ..Default::default() }).collect();
    let tensor =
        type_proto::Tensor { elem_type: Some(element.into()), shape: Some(TensorShapeProto { dim }) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { r#type: Some(TypeProto { value, ..Default::default() }), ..self::value(name) }
}

fn scalar(name: &str, value: f32) -> TensorProto {
    tensor::from_f32(name, &[], &[value])
}

/// Images of whole bytes, and the same normalized to −1 … 1.
fn images(count: usize) -> (Array4<u8>, Array4<f32>) {
    let bytes = Array4::from_shape_fn((count, 3, 8, 8), |(n, c, h, w)| {
        ((n * 97 + c * 61 + h * 31 + w * 17) % 256) as u8
    });
    let normalized = bytes.mapv(|x| f32::from(x) / 127.5 - 1.0);
    (bytes, normalized)
}

/// A model on the array in a file: the scales that are found, and what the quantized model gives.
struct Outcome {
    float: Prepared,
    quantized: Prepared,
    scales: Vec<SiteScales>,
    output: ArrayD<f32>,
    data: Dataset,
}

fn quantized(model: Prepared, array: &std::path::Path, bits: u8) -> Result<Outcome> {
    let data = Dataset::for_model(&model, array, None)?;
    let quantize = Quantize::new(&model).bits(bits, bits);
    let calibration = quantize.calibrate(&data)?;
    let quantized = quantize.export(&calibration)?.prepared()?;
    let output =
        Runner::with_image(&quantized, data.item_shape())?.run(&data.batch(0..data.len())?.view())?;
    Ok(Outcome { quantized, scales: calibration.sites.clone(), output, data, float: model })
}

fn outcome(model: Model, array: &ArrayD<f32>) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, array).unwrap();
    quantized(Prepared::new(model).unwrap(), &path, 8).unwrap()
}

fn plain(array: &Array4<f32>) -> Outcome {
    outcome(changed(|_| ()), &array.clone().into_dyn())
}

/// The same scales, and the same output to the bit.
#[track_caller]
fn same(found: &Outcome, expected: &Outcome) {
    assert_eq!(found.scales, expected.scales);
    assert_eq!(found.output, expected.output);
}

/// The emitted file has the inputs of the float file.
#[track_caller]
fn same_inputs(model: &Model, of: &Outcome) {
    let quantize = Quantize::new(&of.float).bits(8, 8);
    let calibration = quantize.calibrate(&of.data).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.onnx");
    quantize.export(&calibration).unwrap().write(&path).unwrap();
    assert_eq!(Model::read(&path).unwrap().graph().input, model.graph().input);
}

#[test]
fn layouts_are_those_of_the_file() {
    let (_, array) = images(4);
    let expected = plain(&array);
    let perm = |perm: &[i64]| AttributeProto::int_list("perm", perm);
    let channels_first = node("Transpose", "", ["x"], ["images"]).with(perm(&[0, 3, 1, 2]));
    let reshape = || node("Reshape", "", ["x", "shape"], ["images"]);
    let shape = || vec![tensor::from_i64("shape", &[4], &[-1, 3, 8, 8])];
    let channels_last =
        array.clone().permuted_axes([0, 2, 3, 1]).as_standard_layout().into_owned().into_dyn();
    let as_shape = |shape: &[usize]| array.clone().into_dyn().into_shape_with_order(shape).unwrap();
    let cases = [
        (&[-1, 8, 8, 3][..], channels_first, vec![], channels_last),
        (&[-1, 192][..], reshape(), shape(), as_shape(&[4, 192])),
        (&[-1, 24, 8][..], reshape(), shape(), as_shape(&[4, 24, 8])),
        (&[-1, 3, 1, 8, 8][..], reshape(), shape(), as_shape(&[4, 3, 1, 8, 8])),
    ];
    for (dims, node, constants, array) in cases {
        let model = behind(typed("x", DataType::Float, dims), vec![node], constants);
        let found = outcome(model.clone(), &array);
        same(&found, &expected);
        same_inputs(&model, &found);
    }
}

#[test]
fn pixels_are_those_that_the_model_normalizes() {
    let (bytes, normalized) = images(4);
    let expected = plain(&normalized);
    let scale = |from: &str| {
        vec![node("Div", "", [from, "half"], ["scaled"]), node("Sub", "", ["scaled", "one"], ["images"])]
    };
    let constants = || vec![scalar("half", 127.5), scalar("one", 1.0)];
    let cast = node("Cast", "", ["x"], ["float"]).with(AttributeProto::int("to", DataType::Float as i64));
    let of_bytes = [vec![cast], scale("float")].concat();
    let dims = [-1, 3, 8, 8];
    let takes_bytes = behind(typed("x", DataType::Uint8, &dims), of_bytes, constants());
    let takes_floats = behind(typed("x", DataType::Float, &dims), scale("x"), constants());
    let double =
        vec![node("Mul", "", ["x", "two"], ["scaled"]), node("Sub", "", ["scaled", "one"], ["images"])];
    let takes_units =
        behind(typed("x", DataType::Float, &dims), double, vec![scalar("two", 2.0), scalar("one", 1.0)]);

    let floats = bytes.mapv(f32::from).into_dyn();
    for model in [&takes_bytes, &takes_floats] {
        let found = outcome(model.clone(), &floats);
        same(&found, &expected);
        same_inputs(model, &found);
        assert_eq!(found.data.notes, Vec::<String>::new());
    }
    // Values of another range are brought into that of the model, and that is said. Normalizing twice may round otherwise.
    let units = floats.mapv(|x| x / 255.0);
    let normalized = normalized.into_dyn();
    for (model, array, said) in [
        (&takes_bytes, &units, "from 0 to 1, and multiplied by 255"),
        (&takes_floats, &units, "from 0 to 1, and multiplied by 255"),
        (&takes_bytes, &normalized, "normalized already"),
        (&takes_floats, &normalized, "normalized already"),
        (&takes_units, &floats, "from 0 to 255, and divided by 255"),
        (&takes_units, &normalized, "normalized already"),
    ] {
        let found = outcome(model.clone(), array);
        assert!(found.data.notes[0].contains(said), "{:?}", found.data.notes);
        let difference = (&found.output - &expected.output).mapv(f32::abs).fold(0.0, |a: f32, &b| a.max(b));
        assert!(difference < 0.05, "{said}: {difference}");
    }
    // No pixels are like that.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    for (model, array) in
        [(&takes_bytes, floats.mapv(|x| x * 10.0)), (&takes_units, floats.mapv(|x| x - 100.0))]
    {
        write_npy(&path, &array).unwrap();
        let error = quantized(Prepared::new(model.clone()).unwrap(), &path, 8).err().unwrap();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("the model takes pixels from"), "{error}");
    }
}

#[test]
fn images_are_given_as_the_model_takes_them() {
    let half = || vec![scalar("half", 127.5), scalar("one", 1.0)];
    let nodes =
        || vec![node("Div", "", ["x", "half"], ["scaled"]), node("Sub", "", ["scaled", "one"], ["images"])];
    let of_images = |model: Model| {
        let model = Prepared::new(model).unwrap();
        Dataset::for_model(&model, fixture_path("images/rgb.png"), None).unwrap().load(0).unwrap()
    };
    let normalized = of_images(changed(|_| ()));
    let bytes = of_images(behind(image_value("x", [None, Some(3), Some(8), Some(8)]), nodes(), half()));
    assert!(bytes.iter().all(|x| x.fract() == 0.0) && bytes.iter().any(|&x| x > 100.0));
    let again = bytes.mapv(|x| (x / 255.0 - 0.5) / 0.5);
    assert_eq!(again, normalized);
}

#[test]
fn a_fixed_batch_is_filled_up() {
    let (_, array) = images(5);
    let expected = plain(&array);
    let model = changed(|graph| graph.input = vec![typed("images", DataType::Float, &[12, 3, 8, 8])]);
    let found = outcome(model.clone(), &array.clone().into_dyn());
    same_inputs(&model, &found);
    assert_eq!(found.output.shape(), [5, 10]);
    // Twelve of five images are these, in this order: the two first ones count once more.
    let twelve = ndarray::concatenate![Axis(0), array, array, array.slice(s![..2, .., .., ..])];
    let filled = outcome(model, &twelve.into_dyn());
    assert_eq!(found.scales, filled.scales);
    let difference = (&found.output - &expected.output).mapv(f32::abs).fold(0.0, |a: f32, &b| a.max(b));
    assert!(difference < 0.5, "{difference}");
}

#[test]
fn inputs_beside_the_images_have_one_value() {
    let (_, array) = images(4);
    let expected = plain(&array);
    let gate = |name: &str, element, dims: &[i64], used: bool| {
        changed(|graph| {
            graph.input = vec![typed(name, element, dims), typed("pixels", DataType::Float, &[-1, 3, 8, 8])];
            let to = AttributeProto::int("to", DataType::Float as i64);
            graph.node.splice(
                0..0,
                match used {
                    true => vec![
                        node("Cast", "", [name], ["cast"]).with(to),
                        node("Mul", "", ["pixels", "cast"], ["images"]),
                    ],
                    false => vec![node("Identity", "", ["pixels"], ["images"])],
                },
            );
        })
    };
    for (name, element, dims, used) in [
        ("bool_masked_pos", DataType::Bool, &[-1, 16][..], false),
        ("pixel_mask", DataType::Int64, &[-1, 1, 8, 8][..], true),
        ("attention_mask", DataType::Float, &[][..], true),
    ] {
        let model = gate(name, element, dims, used);
        let found = outcome(model.clone(), &array.clone().into_dyn());
        same(&found, &expected);
        same_inputs(&model, &found);
        let [extra] = found.float.extra_inputs() else { panic!("one input beside the images") };
        assert_eq!((extra.name(), extra.is_used()), (name, used));
    }
    // Half of the pixels' values, by a number and by an array; and what does not fit.
    let half = plain(&array.mapv(|x| x * 0.5));
    let model = || Prepared::new(gate("gate", DataType::Float, &[-1, 1, 1, 1], true)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &array).unwrap();
    let rows = |values: [f64; 4]| {
        InputValue::Rows(ArrayD::from_shape_vec(vec![4, 1, 1, 1], values.to_vec()).unwrap())
    };
    for value in [InputValue::Fill(0.5), InputValue::Array(ArrayD::from_elem(vec![1], 0.5)), rows([0.5; 4])] {
        same(&quantized(model().with_input("gate", value).unwrap(), &path, 8).unwrap(), &half);
    }
    let error = model().with_input("gate", rows([0.5, 0.5, 0.5, 1.0])).unwrap_err().to_string();
    assert!(error.contains("its rows differ"), "{error}");
    let error =
        model().with_input("gate", InputValue::Array(ArrayD::zeros(vec![7]))).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    let error = model().with_input("text", InputValue::Fill(1.0)).unwrap_err().to_string();
    assert!(error.contains("no input `text`") && error.contains("`gate`"), "{error}");
}

/// As CLIP has it: the products with as many texts as are given, and the features of the image.
#[test]
fn texts_are_as_many_as_are_given() {
    let (_, array) = images(4);
    let model = || {
        changed(|graph| {
            let mut texts = typed("texts", DataType::Float, &[-1, 10]);
            let Some(type_proto::Value::TensorType(tensor)) = &mut texts.r#type.as_mut().unwrap().value
            else {
                panic!("a tensor")
            };
            let rows = Some(dimension::Value::DimParam("texts".into()));
            tensor.shape.as_mut().unwrap().dim[0].value = rows;
            graph.input = vec![texts, typed("images", DataType::Float, &[-1, 3, 8, 8])];
            graph.output = vec![
                typed("logits_per_image", DataType::Float, &[-1, -1]),
                typed("image_embeds", DataType::Float, &[-1, 10]),
            ];
            graph.node.push(
                node("Transpose", "", ["texts"], ["turned"]).with(AttributeProto::int_list("perm", &[1, 0])),
            );
            graph.node.push(node("MatMul", "", ["logits", "turned"], ["logits_per_image"]));
            graph.node.push(node("Identity", "", ["logits"], ["image_embeds"]));
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &array).unwrap();
    let prepared = Prepared::new(model()).unwrap();
    let texts = ArrayD::from_shape_fn(vec![3, 10], |at| (at[0] * 10 + at[1]) as f64);
    for value in [InputValue::Array(texts.clone()), InputValue::Rows(texts)] {
        let found = quantized(prepared.clone().with_input("texts", value).unwrap(), &path, 8).unwrap();
        assert_eq!(found.float.outputs().unwrap().to_string(), "embed, by the features `image_embeds`");
        assert_eq!(found.output.shape(), [4, 10]);
        assert_eq!(
            found.float.graph().inputs().map(ValueInfoProto::name).collect::<Vec<_>>(),
            ["images", "texts"]
        );
        same_inputs(&model(), &found);
    }
    // The weights of the text's side depend on no image.
    let quantize = Quantize::new(&prepared);
    let data = Dataset::for_model(&prepared, &path, 2).unwrap();
    assert!(quantize.calibrate(&data).unwrap().sites.iter().all(|site| site.name != "logits_per_image"));
}

/// What a check says of the model quantized to 8 and to 2 bits.
fn checks(model: &Model, task: Option<Task>) -> [Comparison; 2] {
    let (_, array) = images(16);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    write_npy(&path, &array).unwrap();
    [8, 2].map(|bits| {
        let model = Prepared::new(model.clone()).unwrap();
        let model = task.map_or(model.clone(), |task| model.with_task(task));
        let found = quantized(model, &path, bits).unwrap();
        assert!(found.scales.iter().all(|site| site.loss.is_finite()));
        assert!(found.scales.iter().map(|site| site.loss).sum::<f64>() > 0.0);
        check(&found.float, &found.quantized, &found.data).unwrap()
    })
}

#[test]
fn every_kind_of_output_has_a_loss_and_a_check_that_can_fail() {
    let softmax = || node("Softmax", "", ["logits"], ["p"]).with(AttributeProto::int("axis", -1));
    let first = || node("Gather", "", ["logits", "0"], ["one"]).with(AttributeProto::int("axis", 1));
    let zero = || vec![tensor::from_i64("0", &[1], &[0])];
    let argmax = || {
        let axis = AttributeProto::int("axis", 1);
        node("ArgMax", "", ["logits"], ["class"]).with(axis).with(AttributeProto::int("keepdims", 0))
    };
    let float = DataType::Float;

    let classes = |good: Comparison, bad: Comparison| {
        let [good, bad] = [good, bad].map(|found| found.classifier.expect("classes"));
        assert!(good.agreement >= 90.0 && bad.agreement < 90.0, "{good:?} {bad:?}");
        assert!(good.kl < 0.1 && bad.kl > 10.0 * good.kl, "{good:?} {bad:?}");
    };
    let plain = changed(|_| ());
    let [good, bad] = checks(&plain, None);
    classes(good, bad);
    let [good, bad] = checks(&before(&[("p", float, &[-1, 10])], vec![softmax()], vec![]), None);
    classes(good, bad);
    let [good, bad] = checks(&before(&[("class", DataType::Int64, &[-1])], vec![argmax()], vec![]), None);
    classes(good, bad);

    let sigmoid = node("Sigmoid", "", ["logits"], ["p"]);
    for (model, task) in [
        (before(&[("p", float, &[-1, 10])], vec![sigmoid], vec![]), None),
        (plain.clone(), Some(Task::Multilabel)),
    ] {
        let [good, bad] = checks(&model, task).map(|found| found.labels.expect("labels"));
        assert!(good.agreement > 95.0 && bad.agreement < good.agreement, "{good:?} {bad:?}");
        assert!(bad.kl > 10.0 * good.kl, "{good:?} {bad:?}");
    }

    let one = before(&[("one", float, &[-1, 1])], vec![first()], zero());
    let [good, bad] = checks(&one, None).map(|found| found.numbers.expect("numbers"));
    assert!(good.r2.unwrap() > 0.95 && bad.r2.unwrap() < 0.8, "{good:?} {bad:?}");
    assert!(bad.largest_error > 5.0 * good.largest_error);

    let length = vec![
        node("ReduceL2", "", ["logits"], ["length"]).with(AttributeProto::int_list("axes", &[1])),
        node("Div", "", ["logits", "length"], ["unit"]),
    ];
    let unit = before(&[("unit", float, &[-1, 10])], length, vec![]);
    let map = node("Reshape", "", ["logits", "shape"], ["map"]);
    let map = before(
        &[("map", float, &[-1, 2, 1, 5])],
        vec![map],
        vec![tensor::from_i64("shape", &[4], &[-1, 2, 1, 5])],
    );
    for (model, task) in [(unit, Task::Embed), (map, Task::Dense)] {
        assert_eq!(Prepared::new(model.clone()).unwrap().outputs().unwrap().task, task);
        let [good, bad] = checks(&model, None);
        assert!(good.classifier.is_none() && good.cosine > 0.99 && bad.cosine < 0.95, "{good:?} {bad:?}");
    }
}

#[test]
fn the_loss_lies_before_what_makes_probabilities_and_classes() {
    let (_, array) = images(4);
    let expected = plain(&array);
    let softmax = node("Softmax", "", ["logits"], ["p"]).with(AttributeProto::int("axis", -1));
    let argmax = node("ArgMax", "", ["logits"], ["class"]).with(AttributeProto::int("axis", 1));
    let top = node("TopK", "", ["logits", "k"], ["best", "class"]);
    for (model, reading) in [
        (before(&[("p", DataType::Float, &[-1, 10])], vec![softmax], vec![]), Reading::Probabilities),
        (before(&[("class", DataType::Int64, &[-1, 1])], vec![argmax], vec![]), Reading::Logits(Some(1))),
        (
            before(
                &[("class", DataType::Int64, &[-1, 1])],
                vec![top],
                vec![tensor::from_i64("k", &[1], &[1])],
            ),
            Reading::Logits(None),
        ),
    ] {
        let found = outcome(model, &array.clone().into_dyn());
        assert_eq!(found.float.outputs().unwrap().compared.1, reading);
        assert_eq!(found.scales, expected.scales, "{reading}");
    }
}

#[test]
fn what_takes_no_images_says_what_it_takes() {
    let inputs = vec![typed("images", DataType::Float, &[3, 8, 8]), typed("sizes", DataType::String, &[-1])];
    let error =
        Prepared::new(changed(|graph| graph.input = inputs)).unwrap().input().unwrap_err().to_string();
    assert!(
        error.contains("expected one tensor of images") && error.contains("`images` [3, 8, 8]"),
        "{error}"
    );
}
