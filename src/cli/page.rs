//! `--report`: what a command found, as an HTML page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use onnx_ptq4vit::analyze::task_losses;
use onnx_ptq4vit::calibrate::{Calibration, SiteCurves, curves};
use onnx_ptq4vit::check::Comparison;
use onnx_ptq4vit::data::Dataset;
use onnx_ptq4vit::page::Page;
use onnx_ptq4vit::plan::{Plan, named};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::progress::Progress as _;
use onnx_ptq4vit::{Error, files};

use super::interrupt::whole;
use super::memory::half_of_free;
use super::progress::Stderr;
use super::{ARGUMENTS, VERSION};

/// How many images the curves of the sites are measured on.
pub(super) const IMAGES: usize = 32;

/// Width and height of thumbnails, in pixels: twice what the page shows, for sharp screens.
const THUMBNAIL: u32 = 160;

/// Where a page goes.
#[derive(Clone, clap::Args)]
pub(super) struct PageArgs {
    /// Write a report with charts to this HTML file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
}

/// Where a page about sites goes, and what it shows on demand.
#[derive(clap::Args)]
pub(super) struct SitesPageArgs {
    #[command(flatten)]
    pub(super) page: PageArgs,
    /// In the report, show the distance of the model's output against the scale of this site, too; may be repeated
    ///
    /// The site is named as for --exclude. Each takes 32 runs on 32 images.
    #[arg(long, value_name = "SITE", requires = "report", hide_short_help = true)]
    task_loss: Vec<String>,
}

impl PageArgs {
    /// An error unless the page can be written.
    pub(super) fn ensure_writable(&self) -> Result<()> {
        match &self.report {
            Some(path) => Ok(whole(|| files::ensure_writable_as(path, files::Kind::Html))?),
            None => Ok(()),
        }
    }

    /// Writes the page, and says where it is.
    pub(super) fn write(&self, page: &Page, progress: &Stderr) -> Result<()> {
        let Some(path) = &self.report else { return Ok(()) };
        let html = page.to_html();
        whole(|| files::write(path, |file| file.write_all(html.as_bytes())))?;
        progress.note(&format!("report: {}", path.display()));
        Ok(())
    }
}

impl SitesPageArgs {
    /// Whether each site of `plan` is one whose losses of the task are asked for; an error if a name is none.
    pub(super) fn wanted(&self, plan: &Plan) -> Result<Vec<bool>> {
        Ok(named(&plan.sites, &self.task_loss)
            .map_err(|error| Error::usage(format!("--task-loss: {error}; `inspect` lists the names")))?)
    }

    /// Puts the curves of all sites on the page, and the losses of the task that were asked for.
    pub(super) fn add_curves(
        &self,
        page: &mut Page,
        model: &Prepared,
        plan: &Plan,
        calibration: &Calibration,
        images: &Dataset,
        progress: &Stderr,
    ) -> Result<()> {
        page.curves = curves(model, plan, calibration, images, half_of_free(), progress)?;
        if self.task_loss.is_empty() {
            return Ok(());
        }
        let wanted = self.wanted(plan)?;
        let names: Vec<&String> =
            plan.sites.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(site, _)| &site.name).collect();
        progress.stage("losses of the task", names.len() as u64);
        for name in names {
            if let Some(SiteCurves { points, .. }) = page.curves.iter().find(|curves| curves.name == *name) {
                let quantizers: Vec<_> = points.iter().map(|point| point.quantizers.clone()).collect();
                let losses = task_losses(model, plan, calibration, images, name, &quantizers)?;
                page.task_losses.insert(name.clone(), losses);
            }
            progress.step(name, 1);
        }
        Ok(())
    }
}

/// The images of a comparison that the page shows.
pub(super) fn thumbnails(comparison: &Comparison, data: &Dataset) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for image in comparison.changed_images.iter().chain(&comparison.farthest_images) {
        if let Some(index) = data.names.iter().position(|name| *name == image.name)
            && !found.contains_key(&image.name)
        {
            found.insert(image.name.clone(), data.thumbnail(index, THUMBNAIL)?);
        }
    }
    Ok(found)
}

/// What is needed to repeat a command, beside its own inputs.
pub(super) fn provenance(
    more: impl IntoIterator<Item = (impl Into<String>, String)>,
) -> Vec<(String, String)> {
    let arguments = ARGUMENTS.get().into_iter().flatten();
    let arguments: Vec<String> = arguments.map(|argument| quoted(&argument.to_string_lossy())).collect();
    let mut all =
        vec![("command".into(), arguments.join(" ")), ("version".into(), VERSION.replace('\n', ", "))];
    all.extend(more.into_iter().map(|(name, value)| (name.into(), value)));
    all
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(is_plain) {
        true => argument.into(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

/// The SHA-256 of the files.
pub(super) fn of_files<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Vec<(String, String)>> {
    let digest = |path: &Path| Ok((format!("{}, SHA-256", path.display()), files::sha256(path)?));
    paths.map(digest).collect()
}

/// What is known of a calibration: the images, how they were prepared, and the options.
pub(super) fn of_calibration(calibration: &Calibration) -> Vec<(&'static str, String)> {
    let found = &calibration.provenance;
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let preprocessing = found.preprocessing.as_ref().map(serde_json::to_string);
    [
        Some(("float model, SHA-256", found.model_sha256.clone())),
        Some(("calibration images", found.images.to_string())),
        Some(("calibration images, SHA-256", found.images_sha256.clone())),
        preprocessing.map(|preprocessing| ("preprocessing", json(preprocessing))),
        Some(("options", json(serde_json::to_string(&found.options)))),
        Some(("scales, SHA-256", calibration.fingerprint())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_as_a_shell_takes_them() {
        let cases = [
            ("a/b-1.onnx", "a/b-1.onnx"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("*", "'*'"),
        ];
        for (argument, expected) in cases {
            assert_eq!(quoted(argument), expected);
        }
    }
}
