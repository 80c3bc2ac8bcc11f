// Runs a fuzz target where libFuzzer is missing: the corpus, then random changes of it.
//
//     fuzz_sql RUNS SEED FILE...
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::string changed(std::string text, const std::vector<std::string>& corpus,
                    std::mt19937_64& random) {
    for (uint64_t changes = 1 + random() % 6; changes > 0; --changes) {
        const size_t at = random() % (text.size() + 1);
        const std::string& other = corpus[random() % corpus.size()];
        switch (random() % 4) {
            case 0:
                text.erase(at, random() % 8);
                break;
            case 1:
                text.insert(at, 1, static_cast<char>(random()));
                break;
            case 2:
                if (at < text.size()) text[at] = static_cast<char>(random());
                break;
            default:
                if (!other.empty()) text.insert(at, other.substr(random() % other.size(), 24));
        }
    }
    return text.substr(0, 4096);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) {
        std::cerr << "usage: " << arguments[0] << " RUNS SEED FILE...\n";
        return 2;
    }
    const long runs = std::atol(arguments[1]);
    std::mt19937_64 random(static_cast<uint64_t>(std::atol(arguments[2])));
    std::vector<std::string> corpus;
    for (int i = 3; i < count; ++i) {
        std::ifstream in(arguments[i], std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
        run(corpus.back());
    }
    for (long i = 0; i < runs; ++i) run(changed(corpus[random() % corpus.size()], corpus, random));
    std::cout << corpus.size() << " inputs, " << runs << " changed ones: no crash\n";
    return 0;
}
