//! Which CPUs this process may run on.

/// Their ids, ascending; never empty.
pub(super) fn allowed() -> Vec<usize> {
    // SAFETY: a cpu_set_t is plain bits; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of the set, which outlives the call; 0 means this thread.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0;
    // SAFETY: CPU_ISSET reads inside the set for every id below CPU_SETSIZE.
    let is_set = |cpu: usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| is_set(cpu)).collect();
    if failed || cpus.is_empty() {
        // A kernel built for more CPUs than the set holds refuses the call.
        return (0..std::thread::available_parallelism().map_or(1, |count| count.get())).collect();
    }
    cpus
}
