//! The programs and images that the lab runs, each with a sentence for when it is missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The real agent, as `cargo build` left it beside this program.
pub fn agent() -> Result<PathBuf> {
    built("goliath-agent")
}

/// The real operator, as `cargo build` left it beside this program.
pub fn operator() -> Result<PathBuf> {
    built("goliath-operator")
}

/// The real command line, as `cargo build` left it beside this program.
pub fn command_line() -> Result<PathBuf> {
    built("goliath")
}

/// What [`crate::measured_pull`] runs as a process of its own.
pub(crate) fn pull_once() -> Result<PathBuf> {
    built("pull-once")
}

fn built(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find my own program file")?;
    // A test's program is in `deps`, the demo's is not.
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("there is no {name} beside {}: run `cargo build --workspace` first", own.display()))
}

/// Something on the PATH.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // What an unprivileged PATH leaves out.
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    found.with_context(|| format!("there is no {name} on the PATH: run `make setup`"))
}

/// The Rust virtiofsd: Debian's, or the one that `make setup` built.
pub fn virtiofsd() -> Result<PathBuf> {
    let packaged = PathBuf::from("/usr/libexec/virtiofsd");
    if packaged.is_file() {
        return Ok(packaged);
    }
    newest(&cache()?, "virtiofsd-")
        .map(|directory| directory.join("bin/virtiofsd"))
        .filter(|path| path.is_file())
        .context("there is no virtiofsd, neither in /usr/libexec nor in the cache: run `make setup`")
}

/// An image of `vm-images/` as an OCI layout directory.
pub fn image_layout(name: &str) -> Result<PathBuf> {
    let directory = cache()?.join("images").join(name);
    ensure!(directory.join("index.json").is_file(), "there is no image at {}: run `make images`", directory.display());
    Ok(directory)
}

/// Where builds that outlive `cargo clean` are kept.
pub fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("GOLIATH_CACHE") {
        return Ok(cache.into());
    }
    match env::var_os("HOME") {
        Some(home) => Ok(Path::new(&home).join(".cache/goliath")),
        None => bail!("neither GOLIATH_CACHE nor HOME is set: set one of them"),
    }
}

/// Whom QEMU runs as in the lab: the installed user, or one that every machine has.
pub fn qemu_user() -> Result<&'static str> {
    for name in ["goliath-qemu", "nobody"] {
        if nix::unistd::User::from_name(name)?.is_some() {
            return Ok(name);
        }
    }
    bail!("there is neither a user goliath-qemu nor nobody: run `make setup`")
}

/// Fails, saying what to do, where the lab cannot work.
pub fn require_root() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the lab makes network namespaces and mounts: run it as root");
    Ok(())
}

fn newest(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let names = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))).max()
}
