"""A module whose doctests call much of the interpreter, the same in each run.

>>> import difflib, json, re
>>> json.loads(json.dumps({"a": [1, 2.5, None, "x" * 3]}))
{'a': [1, 2.5, None, 'xxx']}
>>> re.sub(r"(\\w+) (\\w+)", r"\\2 \\1", "one two three four")
'two one four three'
>>> list(difflib.ndiff(["one", "two"], ["one", "tree"]))
['  one', '- two', '+ tree']
>>> sum(number ** 2 for number in range(1000))
332833500
"""
