"""`python -m trimode_router.access [TENANT]`: make a key and its entry for the key file."""

import json
import sys

from trimode_router.access.access import new_key

if __name__ == "__main__":
    made, digest = new_key()
    sys.stderr.write(f"the key, shown only now: {made}\n")
    sys.stdout.write(json.dumps({"name": "", "tenant": " ".join(sys.argv[1:]), "sha256": digest}) + "\n")
