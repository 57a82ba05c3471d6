"""The operator's page. Mounted by ``app.py`` beside ``protocols``; calls ``http`` and ``services``."""
