"""Everything that calls llama.cpp. Its terms (`n_ctx`, `n_batch`, `n_ubatch`, `n_seq_max`) stay in this package."""
