"""Model folders: how all that lies in one, or under a hub id, is loaded."""

from .loading import is_model_folder, load_adapter, load_config, load_model, load_tokenizer

__all__ = ["is_model_folder", "load_adapter", "load_config", "load_model", "load_tokenizer"]
