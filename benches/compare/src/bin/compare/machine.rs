//! The machine: which core is whose, and what it is called.

use std::fs::read_to_string;
use std::io;

/// The core that servers run on where there is another one for the generator.
const SERVER_CORE: usize = 0;

/// Cores of the machine, whichever of them this program may use.
fn cores() -> usize {
    // SAFETY: asks for a number.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1)
}

/// Binds this program, and so the generators that it starts, to all cores but the servers'.
pub fn keep_off_the_servers_core() {
    let rest: Vec<usize> = (0..cores()).filter(|&core| core != SERVER_CORE).collect();
    if rest.is_empty() {
        eprintln!("one core only: the generator takes time from the servers, and the figures show it");
    } else {
        bind_to(&rest).expect("the cores are there");
    }
}

/// Binds the calling process to the servers' core. Makes system calls only, so that it may stand between fork and exec.
pub fn bind_to_the_servers_core() -> io::Result<()> {
    if cores() > 1 { bind_to(&[SERVER_CORE]) } else { Ok(()) }
}

fn bind_to(cores: &[usize]) -> io::Result<()> {
    // SAFETY: the set is plain bits, for which zero is valid; the calls keep to its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cores.iter().for_each(|&core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What was measured on, in a sentence.
pub fn description(rounds: usize) -> String {
    let file = |path: &str| read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let kernel = file("/proc/sys/kernel/osrelease");
    let times = if rounds == 1 { "measured once".to_owned() } else { format!("medians of {rounds} rounds") };
    format!("{model}, {} cores, Linux {}; {times}.", cores(), kernel.trim())
}
