"""The one place where settings become providers, stores and features."""

from ml_toolbox.app.settings import SETTINGS_FILE, SETTINGS_TEMPLATE, Settings, default_home, load_settings
from ml_toolbox.app.toolbox import Toolbox

__all__ = ["SETTINGS_FILE", "SETTINGS_TEMPLATE", "Settings", "Toolbox", "default_home", "load_settings"]
