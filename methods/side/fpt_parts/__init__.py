"""What FPT and FPT+ are made of: the frozen ViT's extraction, the prompts' attention, the side network."""
