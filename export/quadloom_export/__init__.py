"""From a Hugging Face model to a family of training graphs."""

import logging

# transformers imports torchao wherever it is installed, as executorch wants it to be; on a machine without a GPU that
# complains about every kernel it lacks.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
