"""Engines, each in a file of its own that is imported when it is used."""

import sys

# OpenVINO and NNCF tell their makers of each conversion unless somebody opted out, each time from a fork of this whole
# process. Both take a package that is not there for "no": nothing about a user's models leaves the machine unasked.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
