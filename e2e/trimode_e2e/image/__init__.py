"""trimode's image for a node without a registry: what the Containerfile describes, built from this machine's
environment and from Debian's packages.

    image = build(cache, say)         # about a second where only the tree has changed
    load(image, [ctr, "--address", socket, "--namespace", "k8s.io"], root)

Three layers: `base` (Debian, as in python:slim, and the Python that runs the tests), `dependencies` (what pip installed
here for the requirements of charts/lock.py) and trimode's packages as they are in the tree. Requirements,
packages, environment, user and command are read from where the Containerfile has them.

What differs from the Containerfile's image:
- Without a GPU, PyPI's torch loads 1.7 GB of NVIDIA's libraries and calls none of them. Those over 8 MB are stand-ins
  that end the process with a message when they are called, and what torch loads only with a GPU (triton, parts of
  cuDNN) is left out. So this image serves on CPUs only; the Containerfile's does on GPUs, too.
- Python is the one of the tests, not the newest 3.11; there is no pip. It must run with the libraries of the
  Containerfile's Debian: one that was compiled against a newer glibc does not.
- Of Debian there are the packages that are named in `base`, with what they need; python:slim also has apt, perl and
  the tools for users and disks. There are no manual pages and no translations.
"""

from trimode_e2e.image.build import NAME, PAUSE, build, pause
from trimode_e2e.image.layout import Image, load

__all__ = ["NAME", "PAUSE", "Image", "build", "load", "pause"]
