"""Talking to SGLang: its command line, its HTTP, its metrics, its page keys."""
