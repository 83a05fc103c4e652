"""Texts to token ids, as the model's own Hugging Face tokenizer gives them."""
