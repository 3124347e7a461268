//! How much memory this process may take, as its control groups say: version 2 (`memory.max`) and version 1
//! (`memory.limit_in_bytes`). A limit of any group above counts too.

use std::path::{Path, PathBuf};

/// The least limit in bytes; `None` where there is none.
pub fn limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_in(&groups, Path::new("/sys/fs/cgroup"))
}

/// The same for a process with this `/proc/self/cgroup`. Inside a container the path may be that of the host and not be
/// there: then what is mounted at `root` is the container's own group.
fn limit_in(groups: &str, root: &Path) -> Option<u64> {
    let read = |file: PathBuf| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            c if c.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let path = path.trim_start_matches('/');
        // `..` in it leads out of a namespace.
        let inside = if path.split('/').any(|p| p == "..") { "" } else { path };
        let all = Path::new(inside).ancestors().map(|p| base.join(p).join(file));
        least = all.filter_map(read).chain(least).min();
    }
    // Version 1 says "no limit" by a number close to the largest.
    least.filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        assert_eq!(limit_in(groups, root.path()), expected, "{groups:?} {files:?}");
    }

    #[test]
    fn the_least_limit_counts() {
        check("0::/", &[], None);
        check("0::/", &[("memory.max", "max\n")], None);
        check("0::/", &[("memory.max", "1000\n")], Some(1000));
        check("0::/a/b", &[("memory.max", "max"), ("a/memory.max", "500\n"), ("a/b/memory.max", "900\n")], Some(500));
        check("0::/../x", &[("memory.max", "7\n")], Some(7));
        check("0::/kubepods/pod1", &[("memory.max", "8\n")], Some(8));
        let v1 = "9:name=systemd:/\n4:memory:/docker/1\n3:cpu,cpuacct:/docker/1";
        check(v1, &[("memory/docker/1/memory.limit_in_bytes", "2000\n")], Some(2000));
        check(v1, &[("memory/memory.limit_in_bytes", "9223372036854771712\n")], None);
    }
}
