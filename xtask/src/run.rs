//! Starting other programs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

/// Where the workspace is, and how to start cargo in it.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target_directory: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Asks cargo (the one that started us, when there is one) where the workspace around the current directory is.
    pub(crate) fn find() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let metadata = MetadataCommand::new()
            .cargo_path(PathBuf::from(&cargo))
            .no_deps()
            .exec()
            .context("cargo metadata --no-deps")?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target_directory: metadata.target_directory.into_std_path_buf(),
            cargo,
        })
    }

    /// The cargo that started us.
    pub(crate) fn cargo_path(&self) -> PathBuf {
        PathBuf::from(&self.cargo)
    }

    /// A cargo command, run in the root of the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// A build of programs out of what `cargo test --workspace` compiles, or has compiled. The example makes cargo choose the features
    /// that only tests need as well; without it half of the dependencies would be compiled twice.
    pub(crate) fn build_like_tests(&self, arguments: &[&str]) -> Command {
        let mut command = self.cargo(&["build", "--workspace", "--example", "counter"]);
        command.args(arguments);
        command
    }
}

/// Prints the command, runs it, and fails when it fails.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Prints the command and becomes it: a terminal's Ctrl-C is then for that program alone, and nobody leaves before it has ended.
///
/// # Errors
/// Always, when it returns: the command could not be started.
pub(crate) fn become_of(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let error = std::os::unix::process::CommandExt::exec(command);
    Err(error).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// The command as one would type it, with the environment that it adds.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}=\"{}\"", key.display(), value?.display())))
        .collect();
    let program = std::path::Path::new(command.get_program());
    // Cargo hands us its full path: the name is what one types.
    let cargo = program.file_stem().is_some_and(|name| name == "cargo");
    words.push(if cargo { "cargo".into() } else { program.display().to_string() });
    words.extend(command.get_args().map(|argument| argument.display().to_string()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_types_it() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(shown(&command), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --no-deps");
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = step(Command::new("sh").args(["-c", "exit 3"])).expect_err("exit 3 is a failure");
        assert!(error.to_string().contains("sh -c exit 3"), "{error}");
    }
}
