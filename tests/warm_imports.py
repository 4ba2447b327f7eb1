"""What training imports: loaded once by the process that `warm_process` forks."""

import accelerate  # noqa: F401
import bitsandbytes  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import peft  # noqa: F401
import torch  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import ftcli.cli.app  # noqa: F401
import ftcli.config.validation  # noqa: F401
import ftcli.data.dataset  # noqa: F401
import ftcli.jobs.train  # noqa: F401
import ftcli.run.build  # noqa: F401
import ftcli.run.plots  # noqa: F401
import ftcli.trainer.trainer  # noqa: F401
