"""As sitecustomize.py on PYTHONPATH: lets PYTHONPATH come before an editable installation, whose finder is asked first."""

import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
