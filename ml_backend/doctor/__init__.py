"""The doctor: looks at everything that can be wrong with an installation, and says what to do about it."""

from ml_backend.doctor.examine import examine
from ml_backend.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "examine"]
