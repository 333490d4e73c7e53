//! A libvirt of our own: its daemon with its own directories, process numbers and network, so that one on this machine
//! is not touched, and nothing outlives it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use goliath_lab::{
    namespace::{Machine, run},
    program,
};

use crate::bare::Blueprint;

const LIMIT: Duration = Duration::from_secs(30);
const DOMAIN: &str = "bench";

/// Run as process 1 of the new namespaces, with the directory that holds the configuration. It also takes up orphans:
/// libvirt waits until the QEMUs that it asked for their capabilities are gone. libvirt asks anew at each start where
/// QEMU's user may not use /dev/kvm, and it closes every descriptor that it might have, so there must not be a billion.
const SET_UP: &str = r#"set -e
mount --make-rprivate /
for directory in /run /var/lib /var/cache /var/log; do mount -t tmpfs tmpfs $directory; done
mount --bind "$1/etc" /etc/libvirt
for file in passwd group; do
    { cat /etc/$file; cat "$1/$file"; } > /run/$file
    mount --bind /run/$file /etc/$file
done
if [ -e /dev/kvm ]; then
    cp -a /dev/kvm /run/kvm
    chmod 666 /run/kvm
    mount --bind /run/kvm /dev/kvm
fi
ulimit -n 8192
libvirtd --pid "$1/pid" &
wait
"#;

/// Ends with its value, and with it every guest that it has.
#[derive(Debug)]
pub(crate) struct Libvirt {
    daemon: Child,
    uri: String,
    definition: PathBuf,
}

impl Libvirt {
    /// Returns when it answers; [`Self::create`] then starts the same machine as the agent's.
    pub(crate) fn start(scratch: &Path, network: &Machine, blueprint: &Blueprint) -> Result<Self> {
        program::installed("libvirtd")
            .and_then(|_| program::installed("virsh"))
            .context("run `scripts/setup bench`")?;
        let directory = scratch.join("libvirt");
        let etc = directory.join("etc");
        fs::create_dir_all(&etc)?;
        let shown = directory.display();
        fs::write(etc.join("libvirtd.conf"), format!("unix_sock_dir = \"{shown}\"\nauth_unix_rw = \"none\"\n"))?;
        fs::write(etc.join("qemu.conf"), "stdio_handler = \"file\"\n")?;
        // Debian's package of the whole libvirt, whose services nobody wants here, would have made it.
        fs::write(directory.join("passwd"), "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n")?;
        fs::write(directory.join("group"), "libvirt-qemu:x:64055:\n")?;
        let definition = directory.join("domain.xml");
        fs::write(&definition, domain(blueprint, &directory)?)?;
        let log = fs::File::create(directory.join("log"))?;
        let daemon = network
            .command("unshare")
            .args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child=SIGKILL", "sh", "-c", SET_UP, "sh"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let uri = format!("qemu+unix:///system?socket={shown}/libvirt-sock");
        let mut libvirt = Self { daemon, uri, definition };
        libvirt.wait_until_it_answers().with_context(|| libvirt_log(&directory))?;
        Ok(libvirt)
    }

    /// Starts the guest and removes it again; the time that `virsh create` took, after which it runs.
    pub(crate) fn create(&self) -> Result<Duration> {
        let mut create = self.virsh()?;
        create.arg("create").arg(&self.definition);
        let begin = Instant::now();
        run(&mut create)?;
        let time = begin.elapsed();
        let state = run(self.virsh()?.args(["domstate", DOMAIN]))?;
        run(self.virsh()?.args(["destroy", DOMAIN]))?;
        if state.trim() != "running" {
            bail!("libvirt's guest is {} after virsh create", state.trim());
        }
        Ok(time)
    }

    fn virsh(&self) -> Result<Command> {
        let mut virsh = Command::new(program::installed("virsh")?);
        virsh.args(["--quiet", "--connect", &self.uri]).env("LC_ALL", "C");
        Ok(virsh)
    }

    /// It tells nobody when it is ready, so it is asked.
    fn wait_until_it_answers(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("libvirtd ended: {status}");
            }
            match run(self.virsh()?.arg("version")) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error.context("libvirtd does not answer")),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // With its process 1 ends everything in its namespaces. One that has ended already is what is wanted.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn libvirt_log(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("libvirtd said last:\n{}", lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n"))
}

/// The same machine in libvirt's words. It gets copies: libvirt makes files its guests' own.
fn domain(blueprint: &Blueprint, directory: &Path) -> Result<String> {
    let mut copies = Vec::new();
    for (number, file) in blueprint.read_only().into_iter().enumerate() {
        let copy = directory.join(format!("file{number}"));
        fs::copy(file, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        copies.push(copy.display().to_string());
    }
    let [kernel, initrd, seed] = copies.as_slice() else {
        bail!("the bench's guest shall have a kernel, an initrd and a seed, not {copies:?}");
    };
    let size = blueprint.argument("-m").and_then(|size| size.strip_prefix("size=")).unwrap_or_default();
    let memory = size.trim_end_matches('B');
    let words = blueprint.argument("-append").unwrap_or_default();
    Ok(format!(
        "<domain type='qemu'>
  <name>{DOMAIN}</name>
  <memory unit='bytes'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{words}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{seed}'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>
    <interface type='ethernet'><model type='virtio'/></interface>
    <serial type='pty'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><target type='virtio' name='goliath.notify.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
    <controller type='usb' model='none'/>
  </devices>
</domain>
"
    ))
}
