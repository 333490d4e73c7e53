//! The command as people and scripts meet it: what it prints, and how it ends.
// A helper of tests fails by a panic.
#![allow(clippy::unwrap_used, missing_docs)]

mod agent;

use std::{io::Write as _, path::Path, process::Stdio, time::Duration};

use agent::{Agent, Outcome, goliath};
use goliath_proto::agent::v1::{ConditionStatus, DoctorCheck, Guest, GuestSpec, doctor_check::Verdict};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const GUEST: &str = include_str!("../../docs/examples/guest.yaml");
const NETWORK: &str = include_str!("../../docs/examples/network.yaml");

fn guest(cluster: &str, name: &str) -> Guest {
    let spec = GuestSpec {
        uid: format!("uid-of-{cluster}-{name}"),
        generation: 1,
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        ..GuestSpec::default()
    };
    Guest { spec: Some(spec), ..Guest::default() }
}

#[test]
fn applying_twice_changes_nothing_and_a_change_grows_the_generation() {
    let agent = Agent::start();
    let file = agent.file("all.yaml", &format!("{GUEST}---\n{NETWORK}"));
    let apply = |file: &Path| agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(0).out;
    assert_eq!(apply(&file), "network acme created\nguest acme/worker-0 created\n");
    assert_eq!(apply(&file), "network acme unchanged\nguest acme/worker-0 unchanged\n");
    let file = agent
        .file("more.yaml", &format!("{}---\n{}", GUEST.replace("2GiB", "3GiB"), NETWORK.replace("host-b", "host-c")));
    assert_eq!(apply(&file), "network acme updated\nguest acme/worker-0 updated\n");
    let state = agent.state();
    let spec = state.guests.values().next().unwrap().spec.clone().unwrap();
    assert_eq!((spec.generation, spec.machine.unwrap().memory_bytes), (2, 3 << 30));
    let network = &state.networks["acme"];
    assert_eq!((network.spec.as_ref().unwrap().generation, network.peers.as_ref().unwrap().generation), (1, 2));
}

#[test]
fn a_guest_that_is_there_keeps_its_uid() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    let file = agent.file("guest.yaml", GUEST);
    agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(0);
    let state = agent.state();
    assert_eq!(state.guests.keys().collect::<Vec<_>>(), ["uid-of-acme-worker-0"]);
    assert_eq!(state.guests["uid-of-acme-worker-0"].spec.as_ref().unwrap().generation, 2);
}

#[test]
fn what_get_prints_can_be_applied_again() {
    let agent = Agent::start();
    let file = agent.file("guest.yaml", GUEST);
    agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(0);
    let printed = agent.goliath(&["get", "guests", "-o", "yaml"]).ends_with(0).out;
    let file = agent.file("again.yaml", &printed);
    let changed = agent.file("changed.yaml", &printed.replace("vcpus: 2", "vcpus: 4"));
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(0);
    assert_eq!(outcome.out, "guest acme/worker-0 unchanged\n");
    let outcome = agent.goliath(&["apply", "-f", changed.to_str().unwrap()]).ends_with(0);
    assert_eq!(outcome.out, "guest acme/worker-0 updated\n");
}

#[test]
fn an_older_generation_is_refused_with_what_to_do() {
    let agent = Agent::start();
    let file = agent.file("guest.yaml", GUEST);
    agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(0);
    let old = GUEST.replace("  labels:", "  generation: 1\n  labels:").replace("vcpus: 2", "vcpus: 3");
    let file = agent.file("old.yaml", &old);
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(4);
    assert!(outcome.err.contains("hint: leave the generation out"), "{}", outcome.err);
}

#[test]
fn a_dry_run_changes_nothing() {
    let agent = Agent::start();
    let file = agent.file("guest.yaml", GUEST);
    let outcome = agent.goliath(&["apply", "--dry-run", "-f", file.to_str().unwrap()]).ends_with(0);
    assert_eq!(outcome.out, "guest acme/worker-0 created (dry run: nothing was changed)\n");
    assert!(agent.state().guests.is_empty());
}

#[test]
fn a_manifest_may_come_from_the_standard_input() {
    let agent = Agent::start();
    let mut child = agent
        .command(&["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(GUEST.replace("vcpus: 2", "vcpu: 2").as_bytes()).unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap()).ends_with(4);
    assert!(outcome.err.contains("<stdin>:14:5: spec.machine.vcpu: unknown field"), "{}", outcome.err);
    assert!(outcome.err.contains("did you mean `vcpus`?"), "{}", outcome.err);
}

#[test]
fn what_the_agent_refuses_is_shown_in_the_file() {
    let agent = Agent::start();
    let file = agent.file("guest.yaml", GUEST);
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("spec.machine.memory_bytes", "must be a multiple of 1 MiB");
    details.add_bad_request_violation("spec.network.mac_address", "is that of acme/worker-1");
    agent.state().refusal = Some(Status::with_error_details(Code::InvalidArgument, "2 fields are not valid", details));
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(4);
    let directory = format!("{}/", file.parent().unwrap().display());
    insta::assert_snapshot!(outcome.err.replace(&directory, ""));
}

#[test]
fn what_the_hosts_state_forbids_is_shown_in_the_file_too() {
    let agent = Agent::start();
    let file = agent.file("guest.yaml", GUEST);
    let field = "spec.network.ipv4_address";
    let sentence = format!("{field}: 10.7.0.10 is that of guest acme/worker-1");
    let details = ErrorDetails::with_precondition_failure_violation("ADDRESS_TAKEN", field, &sentence);
    agent.state().refusal = Some(Status::with_error_details(Code::FailedPrecondition, sentence, details));
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(4);
    let directory = format!("{}/", file.parent().unwrap().display());
    insta::assert_snapshot!(outcome.err.replace(&directory, ""));
}

#[test]
fn one_refusal_does_not_hold_up_the_rest() {
    let agent = Agent::start();
    let file = agent.file("all.yaml", &format!("{GUEST}---\n{NETWORK}"));
    agent.state().refusal = Some(Status::resource_exhausted("the host is cordoned"));
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(4);
    insta::assert_snapshot!(outcome.err);
}

#[test]
fn waiting_ends_when_the_guest_is_booted_over_a_restart_of_the_agent() {
    let agent = Agent::start();
    agent.state().broken_watches = 1;
    let file = agent.file("guest.yaml", GUEST);
    let child = agent
        .command(&["apply", "--wait", "--timeout", "20s", "-f", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while agent.state().guests.is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let ready = ("ImageReady", ConditionStatus::True, "");
    agent.state().see("worker-0", &[ready, ("NetworkReady", ConditionStatus::False, "no underlay")]);
    std::thread::sleep(Duration::from_millis(800));
    agent.state().see("worker-0", &[ready, ("Booted", ConditionStatus::True, "")]);
    let outcome = Outcome::of(child.wait_with_output().unwrap()).ends_with(0);
    assert!(outcome.err.contains("worker-0: waits for NetworkReady: no underlay"), "{}", outcome.err);
    assert!(outcome.err.ends_with("acme/worker-0: there\n"), "{}", outcome.err);
}

#[test]
fn waiting_in_vain_says_what_for() {
    let agent = Agent::start();
    let mut there = guest("acme", "worker-0");
    there.spec.as_mut().unwrap().generation = 0;
    agent.state().put(there);
    let file = agent.file("guest.yaml", GUEST);
    let outcome = agent.goliath(&["apply", "--wait", "--timeout", "1s", "-f", file.to_str().unwrap()]).ends_with(6);
    assert!(outcome.err.contains("gave up after 1 s; still waiting:\n  acme/worker-0 waits for"), "{}", outcome.err);
}

#[test]
fn a_name_that_nobody_has_brings_the_closest() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    let outcome = agent.goliath(&["describe", "guest", "acme/worker-O"]).ends_with(3);
    insta::assert_snapshot!(outcome.err);
    let outcome = agent.goliath(&["get", "network", "acme"]).ends_with(3);
    assert!(outcome.err.contains("there is no network `acme` on this host"), "{}", outcome.err);
    agent.goliath(&["image", "pull", "registry.example/none:1"]).ends_with(3);
}

#[test]
fn a_delete_waits_until_the_guest_is_gone() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    let outcome = agent.goliath(&["delete", "guest", "worker-0", "--wait"]).ends_with(0);
    assert_eq!(outcome.out, "guest acme/worker-0 deleted\n");
    assert!(agent.state().guests.is_empty());
}

#[test]
fn no_agent_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let address = format!("unix:{}", socket.display());
    let command = || {
        let outcome = Outcome::of(goliath(&["get", "guests", "--agent", &address]).output().unwrap()).ends_with(5);
        outcome.err.replace(&*socket.to_string_lossy(), "/run/goliath/agent.sock")
    };
    insta::assert_snapshot!("no_socket", command());
    // As a killed agent leaves it.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    insta::assert_snapshot!("dead_socket", command());
}

#[test]
fn who_may_not_is_told_so() {
    let agent = Agent::start();
    agent.state().refusal = Some(Status::permission_denied("uid 1000 is not in the group goliath"));
    let file = agent.file("guest.yaml", GUEST);
    let outcome = agent.goliath(&["apply", "-f", file.to_str().unwrap()]).ends_with(7);
    assert!(outcome.err.contains("uid 1000 is not in the group goliath"), "{}", outcome.err);
}

#[test]
fn the_doctor_ends_by_the_worst_it_found() {
    let agent = Agent::start();
    let check = |verdict: Verdict| DoctorCheck { verdict: i32::from(verdict), ..DoctorCheck::default() };
    for (verdicts, code) in [
        (vec![Verdict::Pass], 0),
        (vec![Verdict::Pass, Verdict::Warning], 8),
        (vec![Verdict::Fail, Verdict::Warning], 1),
    ] {
        agent.state().checks = verdicts.into_iter().map(check).collect();
        agent.goliath(&["doctor"]).ends_with(code);
    }
}

#[test]
fn a_console_takes_its_input_from_a_pipe() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    let mut child = agent
        .command(&["console", "worker-0", "--linger", "300ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"uptime\n").unwrap();
    assert_eq!(Outcome::of(child.wait_with_output().unwrap()).ends_with(0).out, "UPTIME\n");
}

#[test]
fn a_console_gives_the_terminal_back_as_it_was() {
    use nix::sys::termios::{LocalFlags, tcgetattr};
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    // Ctrl-] leaves; so does a signal, in the middle of a conversation.
    for end_by_signal in [false, true] {
        let pty = nix::pty::openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let mut master = std::fs::File::from(pty.master);
        let mut child = agent
            .command(&["console", "worker-0"])
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let is_raw = || !tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON);
        while !is_raw() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the terminal was raw");
            std::thread::sleep(Duration::from_millis(5));
        }
        master.write_all(b"\x03hi\r").unwrap();
        let mut answer = [0; 4];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut answer).unwrap();
        assert_eq!(&answer, b"\x03HI\r", "every key goes to the guest, Ctrl-C too");
        if end_by_signal {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        } else {
            master.write_all(b"\x1d").unwrap();
        }
        Outcome::of(child.wait_with_output().unwrap()).ends_with(0);
        assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
    }
}

#[test]
fn a_log_has_a_tail() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    assert_eq!(agent.goliath(&["logs", "worker-0"]).ends_with(0).out, "Linux version 6.1\nlogin: ");
    assert_eq!(agent.goliath(&["logs", "worker-0", "--tail", "7"]).ends_with(0).out, "login: ");
}

#[test]
fn images_are_pulled_listed_and_removed() {
    let agent = Agent::start();
    let pulled = agent.goliath(&["image", "pull", "registry.example/tiny:1"]).ends_with(0);
    assert_eq!(pulled.out, format!("sha256:{}\n", "ab".repeat(32)));
    assert_eq!(pulled.err, "resolving 2 KiB\ndownloading 2 KiB\n");
    assert!(agent.goliath(&["image", "ls"]).ends_with(0).out.contains("registry.example/tiny:1"));
    assert!(agent.goliath(&["get", "image", "abababababab", "-o", "json"]).ends_with(0).out.starts_with('{'));
    let removed = agent.goliath(&["image", "rm", "registry.example/tiny:1"]).ends_with(0);
    assert_eq!(removed.out, "removed registry.example/tiny:1: 4 KiB freed\n");
    assert!(
        agent.goliath(&["image", "gc", "--dry-run"]).ends_with(0).out.ends_with("1 image would be removed, 4 KiB\n")
    );
}

#[test]
fn certificates_rotate_and_hosts_are_cordoned() {
    let agent = Agent::start();
    agent.state().put(guest("acme", "worker-0"));
    assert!(agent.goliath(&["certs", "worker-0"]).ends_with(0).out.contains("kubelet  1 "));
    assert!(agent.goliath(&["certs", "worker-0", "--rotate"]).ends_with(0).out.contains("kubelet  2 "));
    assert_eq!(agent.goliath(&["cordon"]).ends_with(0).out, "host host-a cordoned\n");
    assert!(agent.state().cordoned);
    assert_eq!(agent.goliath(&["uncordon"]).ends_with(0).out, "host host-a uncordoned\n");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let agent = Agent::start();
    for number in 0..2000 {
        agent.state().put(guest("acme", &format!("worker-{number}")));
    }
    let mut child = agent.command(&["get", "guests"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = Outcome::of(child.wait_with_output().unwrap()).ends_with(0);
    assert_eq!(outcome.err, "");
}

#[test]
fn tls_with_the_certificates_of_pki_init() {
    let directory = tempfile::tempdir().unwrap();
    let pki = |name: &str| {
        let path = directory.path().join(name);
        let text = path.to_str().unwrap();
        let made =
            goliath(&["pki", "init", text, "--host-name", "localhost", "--address", "127.0.0.1", "--address", "::1"]);
        Outcome::of({ made }.output().unwrap()).ends_with(0);
        path
    };
    let (ours, strangers) = (pki("ours"), pki("strangers"));
    let get = |address: &str, ca: &Path, operator: &Path| {
        let file = |directory: &Path, name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (file(ca, "ca.crt"), file(operator, "operator.crt"), file(operator, "operator.key"));
        let arguments = ["get", "hosts", "--agent", address, "--ca", &ca, "--cert", &cert, "--key", &key];
        Outcome::of(goliath(&arguments).output().unwrap())
    };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let agent = Agent::start_tls(&ours, address);
        assert!(get(agent.address(), &ours, &ours).ends_with(0).out.contains("host-a"));
    }
    let agent = Agent::start_tls(&ours, "127.0.0.1:0");
    let outcome = get(agent.address(), &strangers, &ours).ends_with(5);
    assert!(outcome.err.contains("its certificate is not acceptable"), "{}", outcome.err);
    let outcome = get(agent.address(), &ours, &strangers).ends_with(7);
    assert!(outcome.err.contains("did not accept our certificate"), "{}", outcome.err);
    let without = ["get", "hosts", "--agent", agent.address()];
    let outcome = Outcome::of(goliath(&without).output().unwrap()).ends_with(2);
    assert!(outcome.err.contains("needs --ca, --cert, --key"), "{}", outcome.err);
}

#[test]
fn help_is_worth_reading() {
    let help = |arguments: &[&str]| Outcome::of(goliath(arguments).output().unwrap()).ends_with(0).out;
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_apply", help(&["apply", "--help"]));
    insta::assert_snapshot!("help_get", help(&["get", "-h"]));
    assert!(help(&["completion", "bash"]).contains("_goliath"));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [
        &["aply"] as &[&str],
        &["get", "gests"],
        &["get", "networks", "-w"],
        &["logs", "a", "--tail", "4KB"],
        &["get", "guests", "--agent", "ftp://host"],
    ] {
        Outcome::of(goliath(arguments).output().unwrap()).ends_with(2);
    }
}
