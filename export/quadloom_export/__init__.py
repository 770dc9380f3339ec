"""From a Hugging Face model to a family of training graphs."""
