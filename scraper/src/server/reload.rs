//! What `--config.auto-reload` watches: the content of the configuration file and of those that it names.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

use narthex_config::Config;

use crate::settings::Settings;

/// A fingerprint of all files that a reload would read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched(u64);

impl Watched {
    /// Of the files as they are now; of a missing file its absence.
    pub fn of(settings: &Settings) -> Watched {
        let mut hasher = DefaultHasher::new();
        let Some(main) = &settings.config_file else { return Watched(0) };
        add(&mut hasher, main);
        if let Ok(config) = Config::load_file(main) {
            for pattern in config.scrape_config_files.iter().chain(&config.rule_files) {
                for file in files(pattern) {
                    add(&mut hasher, &file);
                }
            }
        }
        Watched(hasher.finish())
    }
}

fn add(hasher: &mut DefaultHasher, file: &Path) {
    file.hash(hasher);
    std::fs::read(file).ok().hash(hasher);
}

/// The files of a folder whose names a pattern's fixed beginning allows: more than the pattern names, at worst.
fn files(pattern: &Path) -> Vec<std::path::PathBuf> {
    let name = pattern.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(star) = name.find(['*', '?', '[']) else { return vec![pattern.to_owned()] };
    let folder = pattern.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let starts = |p: &std::path::PathBuf| {
        p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name[..star])) && p.is_file()
    };
    let mut all: Vec<_> = entries.flatten().map(|e| e.path()).filter(starts).collect();
    all.sort();
    all
}
