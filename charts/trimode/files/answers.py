import sys
import time
import urllib.error
import urllib.request

# The Service reaches one copy at a time, so ask until the leader has answered.
deadline = time.monotonic() + 60
while True:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        if "trimode_operator_leader 1.0" in lines:
            sys.exit(0)
        problem = "no copy leads yet"
    except (urllib.error.URLError, OSError) as error:
        problem = str(error)
    if time.monotonic() > deadline:
        sys.exit(f"{sys.argv[1]}: {problem}")
    time.sleep(1)
