"""The nouns and the contracts: Example, Batch, Step, Knob, Plan, Task, Pipeline. No engine is imported here."""

from llm_moments.core.change import Change
from llm_moments.core.example import WINDOW, Batch, Example, SampleSizes
from llm_moments.core.knob import Knob, Settings, Step, one_of, whole
from llm_moments.core.outputs import Outputs, Ragged
from llm_moments.core.pipeline import MOST_STAGES, Pipeline
from llm_moments.core.plan import Plan
from llm_moments.core.recorder import NULL, NullRecorder, Recorder
from llm_moments.core.task import Extent, Task

__all__ = [
    "MOST_STAGES", "NULL", "WINDOW", "Batch", "Change", "Example", "Extent", "Knob", "NullRecorder", "Outputs", "Pipeline", "Plan", "Ragged", "Recorder",
    "SampleSizes", "Settings", "Step", "Task", "one_of", "whole",
]  # fmt: skip
