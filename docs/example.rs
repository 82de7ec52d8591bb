use onnx_ptq4vit::{Dataset, Engine, Prepared, Quantize, Runner, Thresholds, check};

fn main() -> onnx_ptq4vit::Result<()> {
    let model = Prepared::open("vit.onnx")?;
    let images = Dataset::for_model(&model, "images", 32)?;
    Quantize::new(&model).bits(8, 8).run(&images)?.write("vit.int8.onnx")?;

    let quantized = Prepared::open("vit.int8.onnx")?;
    let comparison = check(&model, &quantized, &Dataset::for_model(&model, "val", None)?)?;
    println!("{:?}", Thresholds::default().with_min_agreement(95.0).judge(&comparison)?);

    let logits = Runner::new(&quantized)?.run(&images.batch(0..1)?.view())?;
    println!("{logits}");
    Ok(())
}
