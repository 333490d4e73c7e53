//! A guest of a kernel and a few hundred kB of busybox, whose kernel command line says what it does: for tests of what
//! QEMU shows of a guest. Made once and kept in `~/.cache/goliath/bare-guest`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

/// Its files, readable for everyone.
#[derive(Debug, Clone)]
pub struct BareGuest {
    /// Debian's cloud kernel.
    pub kernel: PathBuf,
    /// busybox, qemu-guest-agent and `init`.
    pub initrd: PathBuf,
}

/// What `init` loads, and what these need; what a kernel has built in is no module of it.
const MODULES: [&str; 9] = [
    "button",
    "evdev",
    "pvpanic-pci",
    "qemu_fw_cfg",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtiofs",
];

impl BareGuest {
    /// Downloads kernel and guest agent from Debian where they are not there yet.
    pub fn get() -> anyhow::Result<Self> {
        let home = std::env::var_os("HOME").context("HOME is not set: it says where downloads are kept")?;
        let cache = PathBuf::from(home).join(".cache/goliath/bare-guest");
        fs::create_dir_all(&cache)?;
        let lock = fs::File::create(cache.join("lock"))?;
        lock.lock()?;
        let guest = Self { kernel: cache.join("vmlinuz"), initrd: cache.join("initrd") };
        let made_by = cache.join("made-by");
        let init = include_str!("bare_guest/init");
        let recipe = format!("{MODULES:?}\n{init}");
        let is_made = fs::read_to_string(&made_by).is_ok_and(|made| made == recipe);
        if is_made && guest.kernel.exists() && guest.initrd.exists() {
            return Ok(guest);
        }
        let work = tempfile::tempdir_in(&cache)?;
        let kernel = unpack(&kernel_package()?, work.path(), "kernel")?;
        let agent = unpack("qemu-guest-agent", work.path(), "agent")?;
        let root = work.path().join("root");
        fill(&root, &kernel, &agent, init)?;
        run(Command::new("sh")
            .current_dir(&root)
            .args(["-ec", "find . | cpio --quiet -o -H newc | gzip -1 > ../initrd"]))?;
        keep(&work.path().join("initrd"), &guest.initrd)?;
        keep(&find(&kernel.join("boot"), "vmlinuz")?, &guest.kernel)?;
        fs::write(made_by, recipe)?;
        Ok(guest)
    }
}

/// The package that Debian's `linux-image-cloud-amd64` means at present.
fn kernel_package() -> anyhow::Result<String> {
    let output = Command::new("apt-cache").args(["depends", "--important", "linux-image-cloud-amd64"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .context("apt knows no linux-image-cloud-amd64: run apt-get update")
}

fn unpack(package: &str, work: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let (debs, tree) = (work.join(format!("{name}.debs")), work.join(name));
    fs::create_dir_all(&debs)?;
    run(Command::new("apt-get").current_dir(&debs).args(["-q", "download", package]))?;
    run(Command::new("dpkg-deb").arg("-x").arg(find(&debs, package)?).arg(&tree))?;
    Ok(tree)
}

fn fill(root: &Path, kernel: &Path, agent: &Path, init: &str) -> anyhow::Result<()> {
    for directory in ["bin", "sbin", "dev", "proc", "sys", "modules", "run", "tmp", "var/run"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("/bin/busybox is missing: apt-get install busybox-static")?;
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    // What qemu-guest-agent runs for `guest-shutdown`.
    let shutdown = root.join("sbin/shutdown");
    fs::write(&shutdown, "#!/bin/busybox sh\necho SHUTDOWN-BY-AGENT > /dev/ttyS0\nexec /bin/busybox poweroff -f\n")?;
    fs::set_permissions(&shutdown, fs::Permissions::from_mode(0o755))?;
    let mut order = String::new();
    for path in modules(kernel)? {
        let name = path.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        let target = root.join("modules").join(name.trim_end_matches(".xz"));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => run(Command::new("sh")
                .args(["-ec", "xz -dc \"$1\" > \"$2\"", "unpack"])
                .args([path.as_path(), target.as_path()]))?,
            _ => {
                fs::copy(&path, &target)?;
            }
        }
        order.push_str(name.trim_end_matches(".xz"));
        order.push('\n');
    }
    fs::write(root.join("modules/order"), order)?;
    let program = agent.join("usr/sbin/qemu-ga");
    fs::copy(&program, root.join("sbin/qemu-ga"))?;
    let libraries = Command::new("ldd").arg(&program).output()?;
    for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a library without a directory")?)?;
        fs::copy(word, target)?;
    }
    ensure!(
        !String::from_utf8_lossy(&libraries.stdout).contains("not found"),
        "qemu-ga lacks libraries on this machine"
    );
    Ok(())
}

/// The files of [`MODULES`] and of what they need, in the order in which they load.
fn modules(kernel: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let trees = kernel.join("lib/modules");
    let version = fs::read_dir(&trees)?.next().context("the kernel's package has no modules")??.file_name();
    run(Command::new("depmod").arg("-b").arg(kernel).arg(&version))?;
    let mut order = Vec::new();
    for module in MODULES {
        let output = Command::new("modprobe")
            .arg("-d")
            .arg(kernel)
            .arg("-S")
            .arg(&version)
            .args(["--show-depends", module])
            .output()
            .context("cannot run modprobe: apt-get install kmod")?;
        let text = String::from_utf8_lossy(&output.stdout);
        for path in text.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| PathBuf::from(path.trim()))
        {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// The first file under a directory whose name begins so.
fn find(directory: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(prefix) {
                return Ok(entry.path());
            }
        }
    }
    bail!("there is no {prefix}* under {}", directory.display())
}

fn keep(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::set_permissions(from, fs::Permissions::from_mode(0o644))?;
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::rename(&new, to)?;
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
