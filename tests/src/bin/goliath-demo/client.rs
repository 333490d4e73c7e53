//! Where the operator works: a machine in the hosts' network with the command line, certificates and manifests.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use goliath_lab::{Host, Lab, program};

use crate::report::Report;

pub(crate) struct Client {
    directory: PathBuf,
    namespace: PathBuf,
    goliath: PathBuf,
}

impl Client {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("client");
        fs::create_dir_all(&directory)?;
        let goliath = fs::canonicalize(program::command_line()?)?;
        Ok(Self { directory, namespace: lab.underlay().namespace().to_owned(), goliath })
    }

    /// Makes certificates for a host and its operator; gives their directory.
    pub(crate) fn pki(&self, report: &Report, host: &str, address: Ipv4Addr) -> Result<PathBuf> {
        let pki = Path::new("goliath").join(host);
        let line = format!("pki init {} --host-name {host} --address {address}", pki.display());
        report.command(&line);
        // What it says is where all goes: the agent's configuration and ours.
        self.run(&line)?;
        Ok(self.directory.join(pki))
    }

    /// Writes the command line's configuration, with a context for each host.
    pub(crate) fn configure(&self, hosts: &[&Host]) -> Result<()> {
        let mut config = String::new();
        for host in hosts {
            let (name, agent) = (host.name(), host.api_address());
            writeln!(config, "[contexts.{name}]\nagent = \"https://{agent}\"\nca = \"{name}/ca.crt\"")?;
            writeln!(config, "cert = \"{name}/operator.crt\"\nkey = \"{name}/operator.key\"\n")?;
        }
        self.write("goliath/config.toml", &config)
    }

    /// Writes a file of his.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Shows a command of `goliath`, runs it, and shows what it says.
    pub(crate) fn goliath(&self, report: &Report, line: &str) -> Result<()> {
        report.command(line);
        report.output(&self.run(line)?);
        Ok(())
    }

    fn run(&self, line: &str) -> Result<String> {
        let mut command = Command::new(program::installed("nsenter")?);
        command.arg(format!("--net={}", self.namespace.display())).arg(&self.goliath).args(line.split(' '));
        command.env("XDG_CONFIG_HOME", &self.directory).current_dir(&self.directory);
        for variable in ["AGENT", "CA", "CERT", "KEY", "CONTEXT"] {
            command.env_remove(format!("GOLIATH_{variable}"));
        }
        let output = command.output()?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "`goliath {line}` failed: {complained}{said}");
        Ok(said.into_owned())
    }

    /// For a shell, in which the commands that were shown then do the same again.
    pub(crate) fn shell(&self) -> String {
        let Self { directory, namespace, goliath } = self;
        let (directory, namespace, goliath) = (directory.display(), namespace.display(), goliath.display());
        format!(
            "cd {directory}\n\
             goliath() {{ XDG_CONFIG_HOME={directory} nsenter --net={namespace} {goliath} \"$@\"; }}"
        )
    }
}
