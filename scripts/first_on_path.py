"""As sitecustomize.py on PYTHONPATH: lets PYTHONPATH come before the finder of an editable installation."""

import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
