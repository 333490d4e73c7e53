//! QEMU as the agent started it, without the agent: the same program, the same arguments, the same kinds of open files.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{OwnedFd, RawFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use command_fds::{CommandFdExt as _, FdMapping};
use goliath_agent::network::tap;
use goliath_lab::namespace::Machine;

const LIMIT: Duration = Duration::from_mins(1);
/// Standard streams, and what the agent keeps for itself.
const FIRST_DESCRIPTOR: RawFd = 5;

/// How a guest's QEMU was started.
#[derive(Debug)]
pub(crate) struct Blueprint {
    program: PathBuf,
    arguments: Vec<String>,
    files: Vec<(RawFd, Kind)>,
    /// Of which of them QMP is.
    qmp: RawFd,
}

/// What stands behind an open file of QEMU's.
#[derive(Debug)]
enum Kind {
    Listener,
    Tap,
    Log,
    ReadOnly(PathBuf),
}

impl Blueprint {
    /// Of a QEMU that runs. What it reads is copied to `keep` where it goes with the guest.
    pub(crate) fn of(pid: i32, keep: &Path) -> Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let text = fs::read_to_string(process.join("cmdline")).context("the guest's QEMU is not there any more")?;
        let mut words = text.trim_end_matches('\0').split('\0').map(str::to_owned);
        words.next();
        let arguments: Vec<String> = words.collect();
        let mut files = Vec::new();
        for number in numbers(&arguments) {
            let kind = match use_of(number, &arguments)? {
                Use::Listener => Kind::Listener,
                Use::Tap => Kind::Tap,
                Use::Log => Kind::Log,
                Use::Loaded => Kind::ReadOnly(copy(&file(&process, number)?, number, keep)?),
                Use::Disk => Kind::ReadOnly(copy(&seed(&process)?, number, keep)?),
            };
            files.push((number, kind));
        }
        let qmp = arguments.iter().find_map(|argument| number_after(argument, "socket,id=qmp,fd="));
        let qmp = qmp.context("the agent's QEMU has no QMP")?;
        Ok(Self { program: fs::read_link(process.join("exe"))?, arguments, files, qmp })
    }

    /// Its kernel, its initrd and its seed, as far as it has them.
    pub(crate) fn read_only(&self) -> Vec<&Path> {
        let paths = self.files.iter().filter_map(|(_, kind)| match kind {
            Kind::ReadOnly(path) => Some(path.as_path()),
            _ => None,
        });
        paths.collect()
    }

    /// What follows an argument.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        let position = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(position + 1).map(String::as_str)
    }

    /// Opens all it needs, but for QEMU itself; taps are in `network`.
    pub(crate) fn prepare(&self, name: &str, directory: &Path, network: &Machine) -> Result<Prepared> {
        let mut mappings = Vec::new();
        let mut qmp = None;
        for (number, kind) in &self.files {
            let file: OwnedFd = match kind {
                Kind::Listener => {
                    let path = directory.join(format!("{name}.{number}"));
                    let listener = UnixListener::bind(&path).with_context(|| format!("{}", path.display()))?;
                    if *number == self.qmp {
                        qmp = Some(path);
                    }
                    listener.into()
                }
                Kind::Tap => network.inside(|| Ok(tap::open(name)?))?,
                Kind::Log => {
                    let path = directory.join(format!("{name}.log"));
                    OpenOptions::new().append(true).create(true).open(path)?.into()
                }
                Kind::ReadOnly(path) => File::open(path).with_context(|| format!("{}", path.display()))?.into(),
            };
            mappings.push(FdMapping { parent_fd: file, child_fd: *number });
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(directory.join(format!("{name}.stderr")))?);
        command.fd_mappings(mappings).map_err(|reason| anyhow::anyhow!("{reason}"))?;
        in_a_session_of_its_own(&mut command);
        Ok(Prepared { command, qmp: qmp.context("QMP is not among QEMU's open files")? })
    }
}

/// As the agent's QEMUs are: the kernel shares processors out by sessions, so that all in one would be given less.
#[allow(unsafe_code)] // The standard library has no stable way to do it.
fn in_a_session_of_its_own(command: &mut Command) {
    // SAFETY: between fork and exec, setsid(2) alone is called: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
}

/// A QEMU that has all but its start.
pub(crate) struct Prepared {
    command: Command,
    qmp: PathBuf,
}

impl Prepared {
    /// Starts it; the time until QMP says that it runs, or waits if that was asked for.
    pub(crate) fn start(mut self) -> Result<(Duration, Qemu)> {
        let begin = Instant::now();
        let qemu = Qemu { child: self.command.spawn().context("cannot start QEMU")? };
        // Our own copies of QEMU's ends: without QEMU there would be nobody to close the connection.
        drop(self.command);
        until_started(&self.qmp).context("QEMU alone does not start as it does under the agent")?;
        Ok((begin.elapsed(), qemu))
    }
}

/// Ends with its value.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_started(path: &Path) -> Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")?;
    for line in BufReader::new(stream).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        ensure!(message.get("error").is_none(), "QMP: {message}");
        match message["return"]["status"].as_str() {
            Some("running" | "prelaunch" | "paused") => return Ok(()),
            Some(other) => bail!("QEMU is {other}"),
            None => {}
        }
    }
    bail!("QEMU ended")
}

/// The open files that arguments speak of, each once.
fn numbers(arguments: &[String]) -> Vec<RawFd> {
    let mut numbers: Vec<RawFd> = Vec::new();
    for argument in arguments {
        for mark in ["fd=", "/proc/self/fd/"] {
            let mut rest = argument.as_str();
            while let Some((_, after)) = rest.split_once(mark) {
                numbers.extend(leading_number(after));
                rest = after;
            }
        }
    }
    numbers.retain(|number| *number >= FIRST_DESCRIPTOR);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn number_after(argument: &str, mark: &str) -> Option<RawFd> {
    leading_number(argument.strip_prefix(mark)?)
}

fn leading_number(text: &str) -> Option<RawFd> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

/// What QEMU does with an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Listener,
    Tap,
    Log,
    Loaded,
    Disk,
}

fn use_of(number: RawFd, arguments: &[String]) -> Result<Use> {
    let found = arguments.iter().find_map(|argument| {
        let ends = |mark: &str| {
            argument.split_once(&format!("{mark}{number}")).is_some_and(|(_, rest)| leading_number(rest).is_none())
        };
        if argument.starts_with("socket,") && argument.contains("server=on") && ends(",fd=") {
            Some(Use::Listener)
        } else if argument.starts_with("tap,") && ends(",fd=") {
            Some(Use::Tap)
        } else if ends("/proc/self/fd/") {
            Some(Use::Loaded)
        } else if ends("logfile=/dev/fdset/") {
            Some(Use::Log)
        } else if argument.starts_with('{') && ends("/dev/fdset/") {
            Some(Use::Disk)
        } else {
            None
        }
    });
    found.with_context(|| format!("the bench does not know what QEMU does with its open file {number}"))
}

fn file(process: &Path, number: RawFd) -> Result<PathBuf> {
    Ok(fs::read_link(process.join("fd").join(number.to_string()))?)
}

/// The only disk of the bench's guests. QEMU has it open under a number of its own choice.
fn seed(process: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(process.join("fd"))?.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let mut seeds: Vec<PathBuf> =
        files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains("seed"))).collect();
    seeds.dedup();
    match seeds.as_slice() {
        [seed] => Ok(seed.clone()),
        other => bail!("the bench's guest shall have a seed and no other disk, not {other:?}"),
    }
}

/// The original may go with the guest.
fn copy(file: &Path, number: RawFd, keep: &Path) -> Result<PathBuf> {
    let copy = keep.join(number.to_string());
    fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_found_in_all_forms_of_arguments() {
        let arguments = ["-kernel", "/proc/self/fd/5", "-add-fd", "fd=10,set=10", "tap,fd=18,vhost=on,vhostfd=19"];
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        assert_eq!(numbers(&arguments), [5, 10, 18, 19]);
        assert_eq!(numbers(&["-smp".to_owned(), "fd=2".to_owned(), "fd=x".to_owned()]), [] as [RawFd; 0]);
        let uses = ["-add-fd", "fd=1,set=1", "socket,id=a,fd=10,server=on,logfile=/dev/fdset/1", "/proc/self/fd/5"];
        let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
        assert_eq!(use_of(1, &uses).unwrap(), Use::Log);
        assert_eq!(use_of(10, &uses).unwrap(), Use::Listener);
        assert_eq!(use_of(5, &uses).unwrap(), Use::Loaded);
        assert!(use_of(7, &uses).is_err());
        assert_eq!(number_after("socket,id=qmp,fd=8,server=on", "socket,id=qmp,fd="), Some(8));
    }
}
