"""Model sources: from a URI to a folder on this machine. No torch: command line and replicas use it before any.

    hf://OWNER/NAME[@REVISION]   downloaded into the Hugging Face cache: resumed, checked, with progress
    file:///PATH                 a folder of this machine, or of the image
    tiny://                      the model in this package
    pvc://CLAIM/PATH             a cluster mounts it and writes file:///PATH instead; refused here

Belongs here: parsing, downloading, and the refusal of what no engine here decodes.
"""

from trimode_workers.errors import SourceError
from trimode_workers.sources.hub import Hub
from trimode_workers.sources.resolve import fetch
from trimode_workers.sources.uri import ModelSource, Progress, silent

__all__ = ["Hub", "ModelSource", "Progress", "SourceError", "fetch", "silent"]
