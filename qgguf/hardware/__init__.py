"""Facts about this machine: processor, cores, memory, GPUs."""
