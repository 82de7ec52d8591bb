//! `manual`: what a package of this program installs beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use onnx_ptq4vit::files;

use super::interrupt::whole;

/// Write man pages, and completions for a shell
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The folder for the files; it is made if it is not there
    folder: PathBuf,
    /// The shells whose completions are written, beside the man pages
    #[arg(long, value_enum, value_name = "SHELL")]
    completions: Vec<Shell>,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit manual ~/.local/share/man/man1
  onnx-ptq4vit manual build/ --completions bash --completions zsh";

pub(super) fn run(args: &Args, mut program: Command) -> Result<ExitCode> {
    files::make_folder(&args.folder)?;
    let name = program.get_name().to_string();
    for shell in &args.completions {
        let mut text = Vec::new();
        clap_complete::generate(*shell, &mut program, &name, &mut text);
        let file = clap_complete::Generator::file_name(shell, &name);
        whole(|| files::write(&args.folder.join(&file), |out| out.write_all(&text)))?;
    }
    program.build();
    let commands = std::iter::once(program.clone()).chain(program.get_subcommands().cloned());
    for command in commands {
        let page = clap_mangen::Man::new(command.clone().version(env!("CARGO_PKG_VERSION")));
        let own = command.get_name();
        let file = if own == name { format!("{name}.1") } else { format!("{name}-{own}.1") };
        let mut text = Vec::new();
        page.render(&mut text).context("man page")?;
        whole(|| files::write(&args.folder.join(&file), |out| out.write_all(&text)))?;
    }
    Ok(ExitCode::SUCCESS)
}
