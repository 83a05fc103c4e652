"""The door to llama.cpp. Its words (`n_ctx`, `n_batch`, `n_ubatch`, `n_seq_max`) stay behind it."""
