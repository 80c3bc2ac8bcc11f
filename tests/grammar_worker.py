"""Asks xgrammar, under the interpreter that has it, which texts a grammar takes."""

import json
import sys
import time

import xgrammar


def main() -> None:
    """Reads {"key": [grammar, [texts]]}; writes {"key": [seconds to compile, [taken up to]]}, where
    None stands for a text that is taken whole."""
    vocabulary = [bytes([i]) for i in range(256)] + [b"<end>"]
    tokenizer = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(tokenizer)
    found = {}
    for key, (grammar, texts) in json.load(sys.stdin).items():
        start = time.perf_counter()
        compiled = compiler.compile_grammar(grammar)
        seconds = time.perf_counter() - start
        found[key] = [seconds, [taken(compiled, text) for text in texts]]
    json.dump(found, sys.stdout)


def taken(compiled: xgrammar.CompiledGrammar, text: str) -> int | None:
    matcher = xgrammar.GrammarMatcher(compiled)
    for place, byte in enumerate(text.encode()):
        if not matcher.accept_token(byte):
            return place
    return None if matcher.accept_token(256) else len(text.encode())


if __name__ == "__main__":
    main()
