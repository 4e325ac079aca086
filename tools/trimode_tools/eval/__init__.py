"""`trimode eval`: how right and how fast each operating point answers.

Belongs here: questions, answers, marks, and how they are shown.
"""
