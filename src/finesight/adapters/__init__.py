"""Adapters: which layers they change, how they are attached, saved, loaded and merged; all by the `peft` library."""
