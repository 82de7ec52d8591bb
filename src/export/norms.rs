//! The gains and biases of normalizations that take over ranges of channels from the weights behind them; and whether all
//! that has to do with such channels is quantized.

use std::collections::BTreeMap;

use crate::calibrate::{Calibration, Fold};
use crate::onnx::{Edits, Graph, tensor};
use crate::plan::{Norm, Plan, RhsOperand, RowConstant, Site};
use crate::{Error, Result};

/// Gives the normalizations before folded sites other gains and biases: `γ/r`, and `(β − s)/r`.
pub(super) fn emit(graph: &Graph, plan: &Plan, calibration: &Calibration, edits: &mut Edits) -> Result<()> {
    let mut by_value: BTreeMap<&str, (&Site, Option<&Fold>)> = BTreeMap::new();
    let fold_of = |site: &Site| calibration.site(&site.name).and_then(|scales| scales.fold.as_ref());
    if let Some(gone) = calibration
        .sites
        .iter()
        .find(|scales| scales.fold.is_some() && !plan.sites.iter().any(|site| site.name == scales.name))
    {
        let why = "the calibration changed channels for it, and it is not quantized now: calibrate again";
        return Err(Error::data(format!("site `{}`", gone.name), why));
    }
    let mut of_attention: Vec<&str> = Vec::new();
    for (index, site) in plan.sites.iter().enumerate() {
        let (RhsOperand::Activation { .. }, Some(fold)) = (&site.b, fold_of(site)) else { continue };
        let values = plan.heads.values.iter().find(|link| link.site == index);
        match values.map(|link| &plan.sites[link.proj]) {
            Some(proj) if fold_of(proj) == Some(fold) => of_attention.push(&proj.a),
            None if plan.heads.scores.iter().any(|link| link.site == index) => {}
            _ => return Err(contradiction(site, "the projections around it do not scale its channels")),
        }
    }
    for site in plan.sites.iter().filter(|site| matches!(site.b, RhsOperand::Weight { .. })) {
        let fold = fold_of(site);
        let (_, first) = by_value.entry(&site.a).or_insert((site, fold));
        if *first != fold {
            return Err(contradiction(
                site,
                "the sites that take the same value scale its channels differently",
            ));
        }
    }
    for (site, fold) in by_value.into_values() {
        let Some(fold) = fold.filter(|_| !of_attention.contains(&site.a.as_str())) else { continue };
        let norm = Norm::of(graph, &plan.sites, site)
            .filter(|norm| norm.gain.values.len() == fold.scale.len())
            .filter(|norm| fold.shift.is_empty() || norm.bias.is_some())
            .ok_or_else(|| {
                contradiction(site, "the calibration scales channels that no normalization can scale")
            })?;
        let mut put = |constant: &RowConstant, part: &str, values: Vec<f32>| {
            let name = edits.fresh(&format!("{}_ptq_{part}", site.a));
            edits.add_initializer(tensor::from_f32(&name, &[values.len()], &values));
            edits.set_input(constant.node, constant.input, name);
        };
        let of_channels = |values: &[f32], value: &dyn Fn(f32, usize) -> f32| {
            values.iter().enumerate().map(|(channel, &x)| value(x, channel) / fold.scale[channel]).collect()
        };
        put(&norm.gain, "gain", of_channels(&norm.gain.values, &|x, _| x));
        if let Some(bias) = &norm.bias {
            let shift = |channel: usize| fold.shift.get(channel).copied().unwrap_or(0.0);
            put(bias, "bias", of_channels(&bias.values, &|x, channel| x - shift(channel)));
        }
    }
    Ok(())
}

fn contradiction(site: &Site, why: &str) -> Error {
    Error::data(format!("site `{}`", site.name), why)
}
