"""A TrainingBackend under label-studio-ml's own server, as its users' ``_wsgi.py`` starts it."""

import os

from label_studio_ml.api import init_app

from tests.models.counting import CountingModel

app = init_app(model_class=CountingModel, model_dir=os.environ["OFFICIAL_MODEL_DIR"])
