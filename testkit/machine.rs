//! The machine of a measurement, as one line. Examples include this file by its path.

/// Returns model, number of cores and architecture of the processor.
pub fn description() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(": "));
        value.map_or("unknown", |(_, value)| value).to_owned()
    };
    format!(
        "cpu: {} (family {}, model {}), {} cores, {}",
        field("model name"),
        field("cpu family"),
        field("model\t"),
        std::thread::available_parallelism().map_or(0, usize::from),
        std::env::consts::ARCH,
    )
}
