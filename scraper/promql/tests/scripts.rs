//! Runs Prometheus's own test scripts, every one and every case.

use narthex_promql::Engine;
use narthex_promql::testscript::{Script, script_options};

/// Evals by script: a file that goes missing or is cut short is noticed.
const SCRIPTS: [(&str, usize); 21] = [
    ("aggregators", 160),
    ("at_modifier", 78),
    ("collision", 2),
    ("duration_expression", 59),
    ("extended_vectors", 169),
    ("fill-modifier", 46),
    ("functions", 431),
    ("histograms", 185),
    ("info", 53),
    ("limit", 37),
    ("literals", 25),
    ("name_label_dropping", 30),
    ("native_histograms", 522),
    ("operators", 214),
    ("range_queries", 18),
    ("selectors", 31),
    ("staleness", 17),
    ("start_timestamps", 26),
    ("subquery", 34),
    ("trig_functions", 19),
    ("type_and_unit", 58),
];

#[test]
fn every_script_passes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/promql-testscripts");
    let only = std::env::var("PROMQL_SCRIPT").unwrap_or_default();
    let mut failed = 0;
    for (name, evals) in SCRIPTS.iter().filter(|(name, _)| name.contains(&only)) {
        let text = std::fs::read_to_string(folder.join(format!("{name}.test"))).unwrap();
        let script = Script::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(script.evals(), *evals, "{name}: number of evals");
        let mut options = script_options();
        options.type_and_unit_labels = *name == "type_and_unit";
        let report = script.run(&Engine::new(options));
        println!("{name}: {} of {evals} passed", report.passed);
        for failure in &report.failures {
            println!("  {failure}");
        }
        failed += report.failures.len();
    }
    assert_eq!(failed, 0, "evals failed");
    assert_eq!(SCRIPTS.iter().map(|(_, n)| n).sum::<usize>(), 2214);
}
