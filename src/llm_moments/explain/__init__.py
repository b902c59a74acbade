from llm_moments._verb import verb

verb(__name__)
