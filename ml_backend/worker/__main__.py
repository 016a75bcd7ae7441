"""``python -m ml_backend.worker '<message>'``: a spawned horse; a worker starts it, people do not."""

import json
import pkgutil
import sys

from ml_backend.logs import set_up_logs
from ml_backend.worker.horse import Order, carry_out, leave

message = json.loads(sys.argv[1])
set_up_logs(message["log_level"])
leave(carry_out(Order(**message["order"]), pkgutil.resolve_name(message["open_work"]), message["worker"]))
