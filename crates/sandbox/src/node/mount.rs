//! Mounts that the sandbox makes itself: overlays for containers, memory for volumes, limited volumes.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts an overlay of `layers` (the lowest first) with what is written in `upper`, at `target`.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> std::io::Result<()> {
    for dir in [upper, work, target] {
        std::fs::create_dir_all(dir)?;
    }
    // The kernel lists the uppermost layer first. Colons and commas cannot stand in these paths.
    let lower: Vec<String> = layers.iter().rev().map(|l| l.display().to_string()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(std::io::Error::from)
}

/// Mounts memory at `target`.
pub(crate) fn tmpfs(target: &Path, size: Option<u64>, mode: u32) -> std::io::Result<()> {
    let size = size.map_or(String::new(), |s| format!(",size={s}"));
    let options = format!("mode={mode:o}{size}");
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(std::io::Error::from)
}

/// Takes a mount away, also one that is in use.
pub(crate) fn unmount(target: &Path) {
    let _ = umount2(target, MntFlags::MNT_DETACH);
}

/// Takes a mount away if nobody uses it; tells whether it did.
pub(crate) fn unmount_idle(target: &Path) -> bool {
    umount2(target, MntFlags::empty()).is_ok()
}

/// Takes away every mount at or below a folder, the newest first.
pub fn unmount_below(folder: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // Spaces are written as \040 there.
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(folder))
        .collect();
    points.reverse();
    for point in points {
        unmount(&point);
    }
}

/// Whether something is mounted there.
pub(crate) fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}
