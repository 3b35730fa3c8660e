//! A machine whose power can be cut: an ext4 file system in a file, behind a loop device, in a mount namespace of our own.
//!
//! ext4 has a call that ends a mounted file system on the spot, as if the power went: what was not synced is gone, the journal's
//! last transactions too, and every later write or sync fails. Mounted again, it recovers as after a real power loss.
//!
//! Needs root, loop devices, `mkfs.ext4`, `mount`, `umount` and `unshare`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Opcode, Setter, ioctl};

/// Room for the data of a run: writers overwrite their keys, and snapshots replace logs.
const IMAGE_BYTES: u64 = 1 << 30;
/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
const SHUTDOWN: Opcode = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not flushed.
const WITHOUT_JOURNAL: u32 = 2;
/// Set in the process that has the namespace.
const INSIDE: &str = "KV_BENCH_OWN_NAMESPACE";
/// How often a busy file system is asked to go, and the pause between.
const UNMOUNT_TRIES: u32 = 50;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// Becomes the same program in a mount namespace of its own, which takes the mounts along when it ends. Returns inside of it.
///
/// # Errors
/// When there is no way to do that here.
pub fn enter_namespace() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root();
    ensure!(root, "POWER LOSS CANNOT BE TESTED HERE: mounting a file system needs root");
    let program = std::env::current_exe().context("finding this program")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("POWER LOSS CANNOT BE TESTED HERE: starting unshare")
}

/// The file system.
#[derive(Debug)]
pub(super) struct Machine {
    image: PathBuf,
    mounted: PathBuf,
}

impl Machine {
    /// Makes one in `directory` and mounts it.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let machine = Self { image: directory.join("disk.img"), mounted: directory.join("disk") };
        let image = File::create(&machine.image).context("making the image of a disk")?;
        image.set_len(IMAGE_BYTES).context("making the image of a disk")?;
        std::fs::create_dir(&machine.mounted).context("making a place to mount a disk")?;
        run("mkfs.ext4", &[OsStr::new("-q"), OsStr::new("-F"), machine.image.as_os_str()])?;
        machine.mount()?;
        Ok(machine)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.mounted
    }

    fn mount(&self) -> Result<()> {
        run("mount", &[OsStr::new("-o"), OsStr::new("loop"), self.image.as_os_str(), self.mounted.as_os_str()])
    }

    /// The power goes. Processes do not end by it; what they write from here on fails.
    pub(super) fn cut(&self) -> Result<()> {
        let root = File::open(&self.mounted).context("opening the disk")?;
        // SAFETY: the kernel reads one u32 from the pointer that `Setter` makes of its own value, and writes nothing.
        #[allow(unsafe_code, reason = "docs/adr/0011-one-ioctl.md")]
        let done = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_JOURNAL)) }; // docs/adr/0011-one-ioctl.md
        done.context("POWER LOSS CANNOT BE TESTED HERE: the file system knows no EXT4_IOC_SHUTDOWN")
    }

    /// The power comes back. No process may hold a file any more.
    pub(super) async fn revive(&self) -> Result<()> {
        for _ in 0..UNMOUNT_TRIES {
            if run("umount", &[self.mounted.as_os_str()]).is_ok() {
                return self.mount();
            }
            tokio::time::sleep(UNMOUNT_PAUSE).await;
        }
        run("umount", &[self.mounted.as_os_str()])?;
        self.mount()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The namespace ends soon and takes it along; this frees the loop device at once.
        let _ = run("umount", &[OsStr::new("--lazy"), self.mounted.as_os_str()]);
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("POWER LOSS CANNOT BE TESTED HERE: starting {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "POWER LOSS CANNOT BE TESTED HERE: {program}: {}", said.trim());
    Ok(())
}
