//! Whether a classifier recognises anything in images that are prepared in some way.

use ndarray::ArrayView1;

use crate::Result;
use crate::data::Dataset;
use crate::engine::{Engine, Reading};
use crate::prepare::Prepared;

/// Why images might be prepared otherwise than the model was trained: it is unsure of some that are drawn from all.
pub fn unsure(model: &Prepared, images: &Dataset) -> Result<Option<String>> {
    const TRIED: usize = 4;
    const UNSURE: f32 = 0.2;
    const FEW_CLASSES: usize = 10;
    let outputs = model.outputs()?;
    let reading = outputs.compared.1;
    if images.preprocess().is_none() || !matches!(reading, Reading::Logits(_) | Reading::Probabilities) {
        return Ok(None);
    }
    let tried = images.batch(0..images.len().min(TRIED))?;
    let output = model.float_engine(images.item_shape())?.run(&tried.view())?;
    if output.ndim() != 2 || output.shape()[1] <= FEW_CLASSES {
        return Ok(None);
    }
    let surest = |row: ArrayView1<f32>| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match reading {
            Reading::Probabilities => most,
            _ => 1.0 / row.iter().map(|x| (x - most).exp()).sum::<f32>(),
        }
    };
    let all = output.rows().into_iter().all(|row| surest(row) < UNSURE);
    Ok(all.then(|| {
        format!(
            "the float model is unsure of {} images (no class has a probability of {UNSURE}): are they prepared as it was \
             trained? See --resize, --mean, --std and --preprocessing",
            output.shape()[0]
        )
    }))
}
