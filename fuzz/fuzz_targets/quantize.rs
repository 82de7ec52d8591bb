#![no_main]

#[allow(dead_code)]
#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: let_guarded_panics_pass(),
    |bytes: &[u8]| bodies::quantize(bytes)
);

/// libFuzzer's hook ends the process at every panic, also at those of tract that become errors.
fn let_guarded_panics_pass() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !onnx_ptq4vit::error::is_guarded() {
            abort(panic);
        }
    }));
}
