"""What the scripted model says. Apart from ``scripted.py``, so that who only needs the numbers imports no LangChain."""

ANSWER_TOKENS = 50
PACE_MS = 20
