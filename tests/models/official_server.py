"""A TrainingBackend under label-studio-ml's own server, as its users' ``_wsgi.py`` starts it."""

import os

from label_studio_ml.api import init_app

from ml_backend import generations
from tests.models.counting import CountingModel

# The first generation wants a folder of its own; the second takes none.
own = {"model_dir": os.environ["OFFICIAL_MODEL_DIR"]} if generations.installed() == 1 else {}
app = init_app(model_class=CountingModel, **own)
