//! What a guest finds in its machine.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use goliath_agent::{
    certs::{Virtiofsd, VirtiofsdConfig},
    qemu::{CertificateDevice, DiskFormat, Handed, MachineConfig, NetworkDevice, RootDiskFiles, SeedDevice},
    spec::{ByteSize, DataDisk},
    volume::{Base, data_disk, root_disk},
};
use goliath_lab::program;

use crate::host::Host;

/// A tap with a vnet header in a namespace that nobody else is in.
fn tap() -> OwnedFd {
    nix::ioctl_write_ptr_bad!(set_interface, nix::libc::TUNSETIFF, nix::libc::ifreq);
    let made = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let tap = OwnedFd::from(File::options().read(true).write(true).open("/dev/net/tun").unwrap());
        // SAFETY: an ifreq is plain bytes, for which zeros are a value; the call reads it and keeps nothing of it.
        #[allow(unsafe_code)]
        unsafe {
            let mut request: nix::libc::ifreq = std::mem::zeroed();
            let flags = nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
            request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
            set_interface(tap.as_raw_fd(), &raw const request).unwrap();
        }
        tap
    });
    made.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_the_devices_that_it_was_given() {
    let host = Host::new();
    let directory = host.directory.path();
    let base = directory.join("base.raw");
    fs::write(&base, b"BASEDISK".repeat(1 << 14)).unwrap();
    let image = Base { path: &base, format: DiskFormat::Raw, size: ByteSize::bytes(1 << 17) };
    let overlay = root_disk(directory, image, Some(ByteSize::GIB), Path::new("/nonexistent")).unwrap();
    let disk = |serial: &str, mib| DataDisk { serial: serial.parse().unwrap(), size: ByteSize::mib(mib) };
    let data_disks: Vec<_> =
        [disk("etcd", 8), disk("kubelet", 16)].iter().map(|disk| data_disk(directory, disk).unwrap()).collect();
    let certificates = directory.join("certs/node");
    fs::create_dir_all(&certificates).unwrap();
    fs::write(certificates.join("tls.crt"), "FROM-VAULT").unwrap();
    let virtiofsd = VirtiofsdConfig {
        program: program::virtiofsd().unwrap(),
        directory: directory.join("certs"),
        runtime: directory.join("run"),
    };
    let (_virtiofsd, connection) = Virtiofsd::launch(virtiofsd).await.unwrap();

    let machine = MachineConfig {
        root_disk: Some(RootDiskFiles { overlay, base, base_format: DiskFormat::Raw }),
        data_disks: data_disks.clone(),
        seed: Some(SeedDevice::Ignition(r#"{"ignition":{"version":"3.4.0"}}"#.to_owned())),
        network: Some(NetworkDevice { mac: "06:12:34:56:78:9a".parse().unwrap(), mtu: Some(1450.try_into().unwrap()) }),
        certificates: Some(CertificateDevice::Virtiofs),
        ..Host::machine("guest=show guest=write")
    };
    let uid = machine.uid;
    let handed = Handed { tap: Some(tap()), certificates: Some(connection) };
    let running = host.launcher.launch(machine, handed).await.unwrap();
    let console = host.wait_for_console(uid, "WRITTEN").await;
    for line in [
        "NET eth0 06:12:34:56:78:9a 1450 0000:00:02.0",
        "DISK root 2097152 0 0000:00:03.0",
        "DISK etcd 16384 0 0000:00:10.0",
        "DISK kubelet 32768 0 0000:00:10.1",
        r#"DOCUMENT org.flatcar-linux/config {"ignition":{"version":"3.4.0"}}"#,
        r#"DOCUMENT com.coreos/config {"ignition":{"version":"3.4.0"}}"#,
        "ROOT BASEDISK",
        "CERTIFICATES FROM-VAULT touch: /tmp/new: Read-only file system",
    ] {
        assert!(console.contains(line), "{line:?} is missing in:\n{console}");
    }
    assert!(fs::read(&data_disks[0].path).unwrap().starts_with(b"written by the guest\n"));
    running.process.kill().unwrap();
    running.process.wait_exit().await;
}
